"""Training steps fed by DALI against the same step on a replayed batch, the upper limit"""

import pytest

from benchmarks.loaders.compare import compare_loaders
from benchmarks.loaders.config import CompareConfig
from ocr.command_line import compose_config, prepare_hydra

pytestmark = pytest.mark.gpu

MIN_SHARE_OF_REPLAY = 0.97
"""Images per second of the better DALI row at 640, relative to the replayed batch."""


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_dali_keeps_up_with_a_replayed_batch(backbone, given_set, on_cpu, tmp_path, record):
    if on_cpu and backbone != "resnet18":
        pytest.skip("one backbone is enough to run the code on a CPU")
    prepare_hydra(("compare_schema", CompareConfig))
    options = ["data=upstage", f"dataset_base_path={given_set}", "model.backbone.weights=null", "sweep=false"]
    options += ["levels=[train-step]", "augment=true", f"model.backbone.name={backbone}"]
    if on_cpu:
        options += ["device=cpu", "only=[replay,dali_cpu]", "rounds=1", "pipeline.image_size=64"]
        options += ["dataloader.batch_size=2", "model.fpn_channels=16", "trainer.precision=32-true"]
        options += ["step_batches=2", "seconds=0.05"]
    else:
        options += ["device=gpu", "only=[replay,dali_gpu,dali_images]", "rounds=3", "pipeline.image_size=640"]
        options += ["dataloader.batch_size=16", "step_batches=24", "seconds=1"]
    results = compare_loaders(compose_config(CompareConfig, "compare_loaders", options), tmp_path)
    shares = []
    for row, measured in results.levels["train-step"].items():
        rates = [round_.images / round_.seconds for round_ in measured.rounds]
        record(row, rates or measured.reason, "images/s" if rates else "")
        share = results.share_of_replay("train-step", row)
        if share is not None and row != "replay":
            shares.append(share)
            record(f"{row}: share of replay", share)
    record("best share of replay", max(shares, default=0.0), at_least=None if on_cpu else MIN_SHARE_OF_REPLAY)
