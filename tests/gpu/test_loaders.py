"""Loaders side by side at all levels, by the benchmark of scripts/compare_loaders.py"""

import pytest

from benchmarks.loaders.compare import compare_loaders
from benchmarks.loaders.config import LEVELS, CompareConfig
from benchmarks.loaders.results import Results
from ocr.command_line import compose_config, prepare_hydra


@pytest.mark.gpu
def test_the_dali_loaders_run_at_every_level(given_set, on_cpu, tmp_path, record):
    prepare_hydra(("compare_schema", CompareConfig))
    options = ["data=upstage", f"dataset_base_path={given_set}", "model.backbone.weights=null", "sweep=false"]
    if on_cpu:
        options += ["device=cpu", "levels=[input,input+targets]", "only=[replay,dali_cpu]", "rounds=1"]
        options += ["pipeline.image_size=128", "dataloader.batch_size=4", "num_images=8", "cold=false"]
    else:
        options += ["device=gpu", f"levels=[{','.join(LEVELS)}]", "only=[replay,torch_ram,dali]", "rounds=3"]
        options += ["dataloader.batch_size=16", "dataloader.num_workers=8", "step_batches=12", "num_images=256"]

    def note(results: Results) -> None:
        """Records the level measured last, so that a run that is cut short keeps the earlier levels."""
        level, rows = list(results.levels.items())[-1]
        for row, measured in rows.items():
            rates = [round_.images / round_.seconds for round_ in measured.rounds]
            record(f"{level}, {row}", rates or measured.reason, "images/s" if rates else "")
            if measured.parity is not None:
                record(f"{level}, {row}: mean difference from the oracle", measured.parity.mean_levels, "levels")
        ours = [measured for row, measured in rows.items() if row.startswith("dali_")]
        failed = [each.reason for each in ours if str(each.reason).startswith("failed")]
        record(f"{level}: DALI rows that failed", failed, equals=[])  # one that cannot run here says why
        record(f"{level}: DALI rows measured", sum(bool(each.rounds) for each in ours), at_least=1)

    compare_loaders(compose_config(CompareConfig, "compare_loaders", options), tmp_path, note)
