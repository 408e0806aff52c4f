"""The commands as a user types them, one after the other: train, evaluate, predict."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
WITH_HELP = ("train", "evaluate", "predict", "export", "prepare_data", "compare_loaders", "sweep_defaults")
ASK_FOR_HELP = """
import contextlib, io, json, runpy, sys
for script in sys.argv[1:]:
    sys.argv = [script, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.suppress(SystemExit):
        runpy.run_path(script, run_name="__main__")
    print(json.dumps({"output": output.getvalue(), "modules": sorted(sys.modules)}))
"""


@pytest.fixture(scope="module")
def run(run_script) -> Callable[..., str]:
    """Runs a script that must succeed and returns what it prints."""

    def succeed(script: str, *overrides: str, cwd: Path) -> str:
        done = run_script(script, *overrides, cwd=cwd)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return succeed


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder in which an interpreter has trained, and what it printed."""
    cwd = tmp_path_factory.mktemp("work")
    overrides = [
        "synthetic.num_train=6",
        "synthetic.num_val=3",
        "pipeline.image_size=128",
        "model.fpn_channels=16",
        "model.backbone.name=test_resnet",
        "model.backbone.weights=null",
        "trainer.max_epochs=1",
        "trainer.precision=32-true",
        "dataloader.batch_size=2",
        "postprocess.box_thresh=0.05",
        "postprocess.bin_thresh=0.1",
        "hydra.run.dir=run",
    ]
    command = [sys.executable, str(SCRIPTS / "train.py"), *overrides]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    return cwd, done.stdout + done.stderr


def test_an_interpreter_ends_without_a_word_from_its_libraries(trained):
    """Triton prints a page about objects that are still there at the end."""
    assert "leaked" not in trained[1]


def test_train_names_its_folder_first_and_last(trained):
    cwd, output = trained
    lines = [line for line in output.splitlines() if "[INFO]" in line]
    assert str(cwd / "run") in lines[0]
    assert str(cwd / "run") in lines[-1]
    assert "best validation hmean" in output


def test_no_line_of_lightning_is_shown(run, trained):
    cwd, output = trained
    predicted = run(
        "predict.py", "checkpoint=run/checkpoints/last.ckpt", "images=outputs/synthetic/images/val", cwd=cwd
    )
    assert not [line for line in (output + predicted).splitlines() if "lightning" in line or line.startswith("INFO: ")]


def test_evaluate_reproduces_the_validation_of_the_run(run, trained):
    cwd, _ = trained
    run("evaluate.py", "checkpoint=run/checkpoints/last.ckpt", "split=val", "hydra.run.dir=evaluated", cwd=cwd)
    metrics = json.loads((cwd / "evaluated" / "metrics.json").read_text())
    last = json.loads((cwd / "run" / "summary.json").read_text())["epochs"][-1]
    assert {name: metrics[name] for name in ("hmean", "precision", "recall")} == {
        name: pytest.approx(last[name], abs=1e-6) for name in ("hmean", "precision", "recall")
    }
    assert metrics["images"] == 3
    assert json.loads((cwd / "evaluated" / "predictions.json").read_text()) == json.loads(
        (cwd / "run" / "predictions.json").read_text()
    )


def test_predict_writes_predictions_and_a_picture_for_each_image(run, trained):
    cwd, _ = trained
    before = set(cwd.glob("outputs/predict/*"))
    run(
        "predict.py",
        "checkpoint=run/checkpoints/last.ckpt",
        "images=outputs/synthetic/images/val",
        "output=found",
        "loader=torch",
        cwd=cwd,
    )
    assert set(cwd.glob("outputs/predict/*")) == before  # no run folder beside the output
    images = json.loads((cwd / "found" / "predictions.json").read_text())["images"]
    names = sorted(path.name for path in (cwd / "outputs/synthetic/images/val").iterdir())
    assert sorted(images) == names
    assert sorted(path.name for path in (cwd / "found" / "pictures").iterdir()) == names
    for entry in images.values():
        for key, word in entry["words"].items():
            assert len(key) == 4
            assert len(word["points"]) >= 4
            assert 0 <= word["confidence"] <= 1


def test_out_of_memory_ends_with_commands_to_paste_and_no_traceback(run_script, trained):
    cwd, _ = trained
    given = [
        "synthetic.num_train=6",
        "synthetic.num_val=3",
        "pipeline.image_size=128",
        "model.backbone.weights=null",
        "model.fpn_channels=1600000000000",  # 410 TB for the weights of one convolution: beyond any address space
        "exp_name=two words",
    ]
    done = run_script("train.py", *given, "dataloader.batch_size=8", "hydra.run.dir=greedy", cwd=cwd)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    message = re.sub(r"[\d,]+ MB", "... MB", done.stderr[done.stderr.index("OutOfMemory:") :])
    shown = "uv run scripts/train.py " + " ".join([*given[:-1], "'exp_name=two words'"])
    assert message == (
        "OutOfMemory: RAM ran out before the first step: torch requested ... MB; ... MB of ... MB free.\n"
        "  this process: ... MB, including ... MB in caches\n"
        "  workers, other programs and the system: ... MB\n"
        "Try half the batch size:\n"
        f"  {shown} dataloader.batch_size=4\n"
        "If that is not enough, smaller caches too:\n"
        f"  {shown} dataloader.batch_size=2 performance=constrained\n"
    )
    assert (cwd / "greedy" / "config.yaml").is_file()


def test_a_wrong_value_ends_with_its_name_and_no_traceback(run_script, tmp_path):
    done = run_script("train.py", "trainer.max_epochs=0", cwd=tmp_path)
    assert done.returncode != 0
    assert "trainer.max_epochs" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def helps() -> dict[str, dict[str, Any]]:
    """The help of each script, and the modules loaded by then: one interpreter shows them all, one after the other."""
    command = [sys.executable, "-c", ASK_FOR_HELP, *(str(SCRIPTS / f"{script}.py") for script in WITH_HELP)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return dict(zip(WITH_HELP, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("script", WITH_HELP)
def test_help_is_shown_without_loading_torch(helps: dict[str, dict[str, Any]], script: str) -> None:
    assert not {"torch", "lightning", "nvidia.dali", "numba"} & set(helps[script]["modules"])
    lines = helps[script]["output"].splitlines()
    groups = {line.partition("=")[0] for line in lines if "|" in line and line[0].isalpha()}
    assert ("experiment" in groups) == (script not in ("evaluate", "predict", "export"))
    assert "data" in groups


def test_training_returns_the_best_hmean_for_sweepers(run, drawn, tmp_path):
    data = ("data=upstage", f"dataset_base_path={drawn}", "device=cpu", "pipeline.image_size=96")
    network = ("model.backbone.name=test_resnet", "model.backbone.weights=null", "model.fpn_channels=16")
    callback = "+hydra.callbacks.returned._target_=hydra.experimental.callbacks.LogJobReturnCallback"
    settings = (*data, *network, callback, "trainer.fast_dev_run=true", "hydra.run.dir=run")
    output = run("train.py", *settings, cwd=tmp_path)
    hmean = json.loads((tmp_path / "run" / "summary.json").read_text())["hmean"]
    assert f"Succeeded with return value: {hmean}" in output
