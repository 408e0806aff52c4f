"""scripts/compare_loaders.py as a user runs it."""

import json
import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.loaders.compare import compare_loaders
from benchmarks.loaders.config import CompareConfig, as_overrides
from benchmarks.loaders.rows import ROWS, chosen_rows
from ocr.command_line import compose_config, prepare_hydra
from ocr.errors import InputError
from tests.programs import Program

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts/compare_loaders.py"
SMALL = (
    "pipeline.image_size=128",
    "pipeline.augmentation.crop_size=128",
    "model.fpn_channels=16",
    "model.backbone.name=test_resnet",
    "model.backbone.weights=null",
    "dataloader.batch_size=2",
    "dataloader.eval_batch_size=2",
    "num_images=5",
    "step_batches=2",
    "sweep=false",
    "hydra.run.dir=compared",
)
FEW = "replay,dali_cpu,dali_scaled,dali_gpu,dali_tensors,turbojpeg"
"""Rows of each kind; tests/benchmarks/loaders/test_worker.py measures every row."""


def on(data_set: Path) -> tuple[str, str]:
    return "data=upstage", f"dataset_base_path={data_set}"


def compare(cwd: Path, *arguments: str, **environment: str) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    done = Program(SCRIPT, *SMALL, *arguments, cwd=cwd, environment=os.environ | environment).wait()
    path = cwd / "compared/results.json"
    return done, json.loads(path.read_text()) if path.exists() else {}


def children_left(folder: Path) -> list[str]:
    """Processes that still work in this folder."""
    left = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if link.readlink() == folder:
                left.append((link.parent / "cmdline").read_text())
        except OSError:
            continue
    return left


@pytest.fixture(scope="module", autouse=True)
def schemas() -> None:
    prepare_hydra(("compare_schema", CompareConfig))


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, drawn: Path) -> tuple[Path, str, dict[str, Any]]:
    cwd = tmp_path_factory.mktemp("work")
    done, results = compare(cwd, *on(drawn), "--only", FEW, "--rounds=2", "--seconds", "0.02")
    assert done.returncode == 0, done.stdout + done.stderr
    return cwd, done.stdout, results


def test_every_row_is_measured_at_every_level_or_has_a_reason(compared):
    _, _, results = compared
    assert list(results["levels"]) == ["decode", "input", "input+targets", "train-step", "val-epoch"]
    for level, rows in results["levels"].items():
        assert rows.keys() == set(FEW.split(","))
        for name, row in rows.items():
            if row["reason"] is None:
                # Where memory is short, rows take turns in groups, and the first one is measured with each.
                num_rounds = len(row["rounds"])
                assert num_rounds == 2 or (name == "replay" and num_rounds % 2 == 0), (level, name, num_rounds)
                assert all(round_["images"] > 0 and round_["cpu_seconds"] > 0 for round_ in row["rounds"])
            else:
                assert row["rounds"] == []
                assert not row["reason"].startswith("failed"), (level, name, row["reason"])
    assert len(results["levels"]["input"]["dali_cpu"]["cold_rounds"]) == 2
    assert results["levels"]["input"]["dali_tensors"]["cold_rounds"] == []
    assert results["levels"]["val-epoch"]["dali_tensors"]["rounds"][0]["stages"]["forward"] > 0


def test_rows_agree_with_the_oracle(compared):
    _, _, results = compared
    for level in ("input", "input+targets"):
        for name, row in results["levels"][level].items():
            if row["reason"] is not None:
                continue
            parity = row["parity"]
            assert parity["in_order"], (level, name)
            assert parity["max_levels"] < (1.2 if parity["resize_filter"].startswith("antialiased") else 120), (
                level,
                name,
            )
            assert parity["polygons_equal"] in (True, None)
            assert parity["maps_equal"] is (None if level == "input" else True), (level, name)


def test_tables_and_verdict_fit_the_terminal(compared):
    _, output, _ = compared
    lines = output.splitlines()
    tables = [line for line in lines if not line.startswith(("[", "Paste: "))]  # those hold paths of any length
    assert max(len(line) for line in tables) <= 120
    assert any("levels off" in line for line in lines)
    assert "Paste: uv run scripts/train.py" in output
    assert "GPU" in output


def test_the_pasted_line_trains(compared):
    cwd, _, results = compared
    (line,) = (line for line in results["verdict"] if line.startswith("Paste: "))
    script, *overrides = shlex.split(line.removeprefix("Paste: uv run scripts/"))
    done = Program(
        ROOT / "scripts" / script, *overrides, "trainer.fast_dev_run=true", "hydra.run.dir=run", cwd=cwd
    ).wait()
    assert done.returncode == 0, done.stdout + done.stderr


def test_files_hold_machine_and_figures(compared):
    cwd, _, results = compared
    environment = results["environment"]
    assert environment["cores"] == len(os.sched_getaffinity(0))
    assert environment["versions"]["torch"]
    text = (cwd / "compared/results.md").read_text()
    assert text.count("| dali_cpu |") == 5
    whole, scaled = text.split("## input, scaled", 1)[0], text.split("## input, scaled", 1)[1].split("##", 1)[0]
    assert "| dali_scaled |" in scaled
    assert "| turbojpeg |" in scaled
    assert "| dali_cpu |" not in scaled
    assert "| dali_scaled |" not in whole.split("## input:", 1)[1]
    assert "## Verdict" in text
    assert (cwd / "compared/results.png").stat().st_size > 10_000
    assert not children_left(cwd)


def test_ctrl_c_keeps_what_was_measured(compared, drawn):
    cwd, _, _ = compared
    (cwd / "compared/results.json").unlink()
    # Enough rounds for the signal to arrive before the last one.
    options = ("--only=replay,torch_ram", "--rounds=40", "--seconds=0.01", "levels=[input,train-step]", "cold=false")
    program = Program(SCRIPT, *SMALL, *on(drawn), *options, cwd=cwd, merged=True)
    while program.returncode is None and "train-step: measuring 2 rows" not in program.output():
        time.sleep(0.02)
    program.send_signal(signal.SIGINT)
    done = program.wait(100)
    assert done.returncode == 0, done.stdout
    assert "interrupted; the results so far follow" in done.stdout
    assert "Interrupted: not all rounds were measured" in done.stdout
    results = json.loads((cwd / "compared/results.json").read_text())
    assert results["is_interrupted"]
    assert len(results["levels"]["input"]["torch_ram"]["rounds"]) == 40
    assert len(results["levels"]["train-step"].get("torch_ram", {"rounds": []})["rounds"]) < 40
    assert not children_left(cwd)


def test_missing_package_costs_only_its_rows(compared, drawn, tmp_path):
    cwd, _, _ = compared
    for name in ("spdl", "albumentations"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(
            f"raise ModuleNotFoundError(\"No module named '{name}'\", name='{name}')"
        )
    done, results = compare(
        cwd,
        *on(drawn),
        "--only=replay,spdl_scaled,albumentations",
        "--rounds=1",
        "--seconds=0.01",
        "levels=[input]",
        "cold=false",
        PYTHONPATH=os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = results["levels"]["input"]
    for name, row in (("spdl", "spdl_scaled"), ("albumentations", "albumentations")):
        assert rows[row]["reason"] == f"{name} is not installed: uv sync --extra bench"
    assert rows["replay"]["rounds"]


def test_the_batch_size_of_evaluation_is_chosen_as_for_a_run(drawn, tmp_path):
    chosen = (
        "dataloader.eval_batch_size=0",
        "levels=[val-epoch]",
        "--only=dali_tensors",
        "--rounds=1",
        "--seconds=0.01",
    )
    done, results = compare(tmp_path, *on(drawn), *chosen)
    assert done.returncode == 0, done.stdout + done.stderr
    assert results["settings"]["dataloader"]["eval_batch_size"] in (1, 2, 4)
    assert results["levels"]["val-epoch"]["dali_tensors"]["rounds"]


def test_missing_data_set_is_named(tmp_path):
    config = compose_config(CompareConfig, "compare_loaders", [*on(tmp_path), "only=[torch]", "levels=[input]"])
    with pytest.raises(FileNotFoundError, match=r"jsons/train\.json: there is no such annotation file"):
        compare_loaders(config, tmp_path / "compared")


def test_a_name_stands_for_its_row_and_those_that_begin_with_it():
    assert [row.name for row in chosen_rows(["spdl", "torch"])] == [
        row.name for row in ROWS if row.name == "torch" or row.name.startswith(("torch_", "spdl_"))
    ]


def test_unknown_row_is_named(tmp_path):
    config = compose_config(CompareConfig, "compare_loaders", ["only=[torch,ffcv]"])
    with pytest.raises(InputError, match="only=ffcv: no such row; there are replay, torch, torch_ram"):
        compare_loaders(config, tmp_path / "compared")


def test_unwritable_folder_is_named(tmp_path):
    """As root nothing is read-only, so a file is in the way."""
    (tmp_path / "file").write_text("")
    done, _ = compare(tmp_path, "--only", "torch", "hydra.run.dir=file/compared")
    assert done.returncode == 1
    assert "file/compared" in done.stderr


def test_help_names_the_short_flags(tmp_path):
    done = Program(SCRIPT, "--help", cwd=tmp_path).wait()
    assert "--only, --rounds and --seconds" in done.stdout
    words = re.findall(r"\w+", done.stdout)
    assert {row.name for row in ROWS} <= set(words)


def test_short_flags_are_overrides():
    assert as_overrides(["--rounds", "5", "--only=dali,torch", "--seconds=0.5", "data=upstage", "--cfg", "job"]) == [
        "rounds=5",
        "only=[dali,torch]",
        "seconds=0.5",
        "data=upstage",
        "--cfg",
        "job",
    ]
    with pytest.raises(SystemExit, match="--only needs a value, as in --only dali,torch"):
        as_overrides(["--only"])
