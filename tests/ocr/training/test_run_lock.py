import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ocr.errors import InputError
from ocr.training.run_lock import RunLock
from tests.programs import Program

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"


@pytest.fixture
def other_run(tmp_path: Path):
    """Number of another process that holds the lock of the folder, and has a worker process that outlives it."""
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        with RunLock(tmp_path):
            worker = os.fork()
            if worker != 0:
                os.write(writer, f"{worker}\n".encode())
            time.sleep(600)
        os._exit(0)
    worker = int(os.read(reader, 100))
    yield process
    os.kill(worker, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):  # a test has killed it
        os.kill(process, signal.SIGKILL)
    os.close(reader)
    os.close(writer)


def test_a_second_run_in_a_folder_is_told_who_runs_there_and_a_dead_one_frees_it(other_run, tmp_path):
    with pytest.raises(InputError, match=rf"process {other_run} on {os.uname().nodename} runs in this folder"):
        RunLock(tmp_path).__enter__()
    os.kill(other_run, signal.SIGKILL)
    os.waitpid(other_run, 0)
    assert (tmp_path / ".lock").is_file()  # left by the dead process
    with RunLock(tmp_path):
        pass
    assert not (tmp_path / ".lock").exists()


@pytest.mark.parametrize(
    ("name", "key", "arguments"),
    [
        ("train", "hydra.run.dir", ["seed=7"]),
        ("train", "hydra.sweep.dir", ["-m", "seed=7,8"]),
        ("evaluate", "hydra.run.dir", ["checkpoint=best.ckpt"]),
    ],
)
def test_a_refused_script_leaves_the_files_of_the_run_under_way_as_they_are(other_run, tmp_path, name, key, arguments):
    (tmp_path / ".hydra").mkdir()
    files = [
        tmp_path / file
        for file in (".hydra/overrides.yaml", ".hydra/config.yaml", ".hydra/hydra.yaml", f"{name}.log", "multirun.yaml")
    ]
    for path in (*files, tmp_path / "config.yaml"):
        path.write_text("of the first run")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    done = Program(SCRIPTS / f"{name}.py", *arguments, f"{key}={tmp_path}", cwd=tmp_path).wait()
    assert done.returncode == 1
    assert done.stderr.startswith(f"InputError: {tmp_path}: process {other_run} on ")
    assert done.stderr.endswith(f"choose another folder with {key}=FOLDER\n")
    assert done.stderr.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_lock_that_was_handed_over_is_taken_by_the_run_and_freed_with_it(tmp_path):
    RunLock(tmp_path).__enter__().hand_over()
    assert (tmp_path / ".lock").is_file()
    with RunLock(tmp_path):
        assert (tmp_path / ".lock").is_file()
    assert not (tmp_path / ".lock").exists()


def test_the_lock_needs_neither_torch_nor_lightning():
    code = "import sys, ocr.training.run_lock; print([name for name in ('torch', 'lightning') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
