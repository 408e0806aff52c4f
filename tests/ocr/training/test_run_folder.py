import os
import signal
import time
from pathlib import Path

import pytest

from ocr.errors import InputError
from ocr.training.run_folder import RunLock


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
