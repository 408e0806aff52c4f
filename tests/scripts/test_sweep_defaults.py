"""scripts/sweep_defaults.py as a user runs it, and a value that fails."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks.loaders.results import Measurement
from benchmarks.sweep import results as sweep_results
from benchmarks.sweep import run as sweep_module
from benchmarks.sweep.config import SweepConfig
from benchmarks.sweep.factors import Factor, JudgedBy
from benchmarks.sweep.results import Judgement
from benchmarks.sweep.run import sweep_defaults
from tests.programs import Program
from tests.splits import splits

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    "pipeline.image_size=96",
    "pipeline.augmentation.crop_size=96",
    "model.fpn_channels=16",
    "model.backbone.name=test_resnet",
    "model.backbone.weights=null",
    "dataloader.batch_size=2",
    "dataloader.eval_batch_size=2",
    "num_images=6",
    "hydra.run.dir=swept",
)


def run(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return Program(ROOT / "scripts/sweep_defaults.py", *SMALL, *arguments, cwd=cwd).wait()


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, drawn: Path) -> tuple[Path, str, dict[str, Any]]:
    cwd = tmp_path_factory.mktemp("work")
    data = ("data=upstage", f"dataset_base_path={drawn}")
    done = run(cwd, *data, "--only", "num_threads,num_workers,hw_decoder_load", "--rounds=3", "--seconds", "0.01")
    assert done.returncode == 0, done.stdout + done.stderr
    return cwd, done.stdout, json.loads((cwd / "swept/sweep.json").read_text())


def test_each_value_is_measured_in_turns_with_the_present_one(swept):
    _, _, document = swept
    factors = {told["factor"]["key"]: told for told in document["swept"]}
    assert list(factors) == ["pipeline.num_threads", "postprocess.num_workers"]
    for told in factors.values():
        measured = [told["present"], *told["others"]]
        for one in measured:
            assert one["reason"] is None
            assert len(one["rounds"]) == 3
            assert one["first_batch_seconds"] > 0
    assert len(factors["postprocess.num_workers"]["others"]) >= 1
    loaded = factors["pipeline.num_threads"]["present"]
    assert [len(round_["batch_seconds"]) % 2 for round_ in loaded["rounds"]] == [0, 0, 0]  # 3 batches: 2 between
    assert all(round_["batch_seconds"] for round_ in loaded["rounds"])
    assert factors["postprocess.num_workers"]["present"]["warm_up_seconds"] > 0


def test_the_better_values_are_measured_together(swept):
    _, _, document = swept
    assert bool(document["recommended"]) is bool(document["combined"])
    for together in document["combined"]:
        assert together["values"] == document["recommended"]
        assert len(together["combined"]["rounds"]) == len(together["present"]["rounds"]) == 3


def test_terminal_and_files_tell_the_same(swept):
    cwd, output, document = swept
    text = (cwd / "swept/sweep.md").read_text()
    for line in document["conclusions"]:
        assert f"- {line}\n" in text
        assert " ".join(line.split()) in " ".join(output.split())
    assert "pipeline.hw_decoder_load at input: acts on a GPU only" in output
    assert "pipeline.hw_decoder_load at input: acts on a GPU only" in text
    assert max(len(line) for line in output.splitlines() if not line.startswith(("[", "Paste: "))) <= 120
    assert not list((cwd / "swept").glob("scratch_*"))


def test_failed_value_is_named_and_better_ones_are_measured_together(monkeypatch, drawn, tmp_path):
    """The test decides which values are better, not the speed of the machine."""

    def judged(present: Measurement, other: Measurement, by: JudgedBy) -> Judgement:
        if not other.rounds:
            return "not judged"
        return "better" if by == "images_per_second" else "no difference"

    split = {"image_path": str(drawn / "images/train"), "annotation_path": str(drawn / "jsons/train.json")}
    config = SweepConfig.model_validate(
        {
            "device": "cpu",
            "rounds": 3,
            "seconds": 0.01,
            "num_images": 4,
            "pipeline": {"image_size": 96},
            "dataloader": {"batch_size": 2},
            "model": {"fpn_channels": 16, "backbone": {"name": "test_resnet", "weights": None}},
            "datasets": {"train_dataset": {"config": split}},
        }
    )
    factors = [
        Factor("pipeline.image_size", "train-step", 96, (64,)),
        Factor("model.backbone.name", "train-step", "test_resnet", ("no_such_network",)),
        Factor("pipeline.num_threads", "input", 1, (-1, 2), judged_by="first_epoch_seconds"),
    ]
    monkeypatch.setattr(sweep_module, "factors_of", lambda *_: factors)
    monkeypatch.setattr(sweep_results, "judged", judged)
    found = sweep_defaults(config, tmp_path / "swept")
    _, network, threads = found.swept
    assert len(network.present.rounds) == 3
    (_, failed) = network.others[0]
    assert failed.rounds == []
    assert failed.reason.startswith("failed: ")
    assert "no_such_network" in failed.reason
    refused, measured = (measured for _, measured in threads.others)
    assert "greater than or equal to 0" in refused.reason
    # Each round in a process of its own: a first epoch each.
    assert len(measured.rounds) == len(measured.first_epoch_rounds) == len(threads.present.first_epoch_rounds) == 3
    assert found.confirmed() == {"pipeline.image_size": 64}
    (together,) = found.combined
    assert len(together.combined.rounds) == 3
    assert " pipeline.image_size=64" in (tmp_path / "swept/sweep.md").read_text().split("Paste: ")[1].splitlines()[0]


def test_sizes_that_a_run_chooses_are_chosen(drawn, tmp_path):
    values = {
        "device": "cpu",
        "only": ["cuda_graphs"],  # nothing to vary on a CPU
        "pipeline": {"image_size": "auto"},
        "dataloader": {"eval_batch_size": 0},
        "datasets": splits(drawn, audit_memo="off"),
    }
    settings = sweep_defaults(SweepConfig.model_validate(values), tmp_path / "swept").settings
    assert settings["pipeline"]["image_size"] % 32 == 0
    assert settings["dataloader"]["eval_batch_size"] in (1, 2, 4)
