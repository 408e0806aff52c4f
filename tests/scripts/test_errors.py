"""Errors that a user can mend end a command with one line, before its job starts too."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.mark.parametrize(
    ("content", "message"), [("a: [1,\n b: {", "is not readable YAML: .*"), ("a: " + "[" * 5000, "nested too deep")]
)
def test_an_unreadable_configuration_file_ends_a_script_with_one_message(run_script, tmp_path, content, message):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "broken.yaml").write_text(content)
    done = run_script("train.py", "experiment=broken", "--config-dir", str(tmp_path), cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert re.search(f"a configuration file .*{message}", done.stderr)


def test_a_run_folder_that_cannot_be_made_ends_a_script_with_one_line(run_script, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    done = run_script("train.py", "hydra.run.dir=file/run", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("NotADirectoryError: ")
    assert done.stderr.count("\n") == 1
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # read on import, so an interpreter of its own is started
    command = [sys.executable, str(SCRIPTS / "train.py"), "hydra.run.dir=file/run"]
    assert "Traceback" in subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100).stderr


@pytest.mark.parametrize(
    ("script", "overrides"),
    [
        ("train.py", ["trainer.max_epochs=0"]),
        ("train.py", ["data=upstage", "dataset_base_path=none"]),
        ("evaluate.py", ["checkpoint=small", "data=upstage", "dataset_base_path=none"]),
        ("predict.py", ["images=list.txt", "output=predicted"]),
        ("export.py", ["checkpoint=small", "output=file.onnx", "card=none.md"]),
    ],
)
def test_a_command_that_fails_before_it_writes_leaves_no_run_folder(run_script, tmp_path, script, overrides):
    (tmp_path / "list.txt").touch()  # names no image
    done = run_script(script, *overrides, cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["list.txt"]


def test_a_command_stopped_while_it_loads_libraries_leaves_no_run_folder(tmp_path):
    command = [sys.executable, "-u", str(SCRIPTS / "train.py")]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert "loading the libraries" in process.stdout.readline()
        assert list(tmp_path.glob("outputs/*/*"))
        process.terminate()
        assert process.stderr.read() == "SIGTERM ended the command; the same command starts it again\n"
    assert process.returncode == 143
    assert not list(tmp_path.iterdir())


def test_a_run_folder_that_the_user_named_stays(run_script, tmp_path):
    run_script("train.py", "trainer.max_epochs=0", "hydra.run.dir=runs/first", cwd=tmp_path)
    assert (tmp_path / "runs/first/.hydra/overrides.yaml").is_file()


MISSING = [
    ("predict", ["checkpoint=none.ckpt", "images=."], "checkpoint=none.ckpt: no such file; a run writes"),
    ("predict", ["images=[.,none.jpg]"], "none.jpg: found no such file or folder; "),
    ("export", ["checkpoint=none.ckpt", "output=a.onnx"], "checkpoint=none.ckpt: no such file; a run writes"),
    (
        "export",
        ["checkpoint=small", "average=none.ckpt", "output=a.onnx"],
        "average=none.ckpt: no such file; a run writes",
    ),
    ("evaluate", ["checkpoint=small", "compare=none"], "compare=none: there is no none; give the folder"),
    ("train", ["init_from=none.ckpt"], "init_from=none.ckpt: no such file; a run writes"),
    ("train", ["resume=none"], "resume=none: no such file; give resume=auto, or a checkpoint file"),
    ("train", ["data=upstage", "resume=none"], "resume=none: no such file; give resume=auto, or a checkpoint file"),
    ("train", ["data=upstage", "dataset_base_path=none"], "dataset_base_path=none: no such folder; give the folder"),
]
RUN_ALL = """
import contextlib, json, runpy, sys
for name, *arguments in json.loads(sys.argv[1]):
    sys.argv = [name, *arguments]
    try:
        with contextlib.redirect_stdout(sys.stderr):
            runpy.run_path(name, run_name="__main__")
    except SystemExit as end:
        print(json.dumps({"ended": end.code, "modules": sorted(sys.modules)}))
"""


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The end of each command of `MISSING`, and the modules loaded by then: one interpreter runs them all, one after the other."""
    commands = json.dumps([[str(SCRIPTS / f"{script}.py"), *overrides] for script, overrides, _ in MISSING])
    command = [sys.executable, "-c", RUN_ALL, commands]
    cwd = tmp_path_factory.mktemp("empty")
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=100, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("place", range(len(MISSING)), ids=[f"{script} {given[-1]}" for script, given, _ in MISSING])
def test_a_missing_file_is_found_before_the_libraries_are_loaded(refusals, place):
    assert len(refusals) == len(MISSING)
    assert MISSING[place][2] in refusals[place]["ended"]
    assert not {"torch", "lightning", "nvidia.dali", "numba"} & set(refusals[place]["modules"])


def test_an_unknown_key_ends_a_script_with_one_line_without_advice_to_append_it(run_script, tmp_path):
    done = run_script("train.py", "trainer.max_epoch=3", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.endswith("no such key; the nearest is trainer.max_epochs; the option --cfg job lists all keys\n")
    assert done.stderr.count("\n") == 1


def test_an_integer_of_thousands_of_digits_ends_a_script_with_one_line(run_script, tmp_path):
    done = run_script("train.py", f"seed={'9' * 5000}", cwd=tmp_path)
    assert done.returncode == 1
    assert (
        done.stderr
        == "ValueError: a value, or a configuration file, has an integer of thousands of digits; correct it\n"
    )


def test_only_the_first_of_several_processes_runs_a_command_that_needs_one(run_script, monkeypatch, tmp_path):
    ranks = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    for name, value in ranks.items():
        monkeypatch.setenv(name, value)
    second = run_script("evaluate.py", "checkpoint=best.ckpt", cwd=tmp_path)
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("RANK", "0")
    first = run_script("evaluate.py", "checkpoint=best.ckpt", cwd=tmp_path)
    assert "only the first of the 2 from torchrun works" in first.stdout
    assert "best.ckpt" in first.stderr
