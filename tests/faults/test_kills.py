"""kill -9 at random moments: nothing is cut, nothing is lost but the step under way, and the run that goes on ends the same."""

import random
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.faults.runs import assert_same_end, assert_whole, last_step, timed_whole_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(params=["disk", "shared memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path):
    """A folder on the file system of the temporary folder, or on another one."""
    if request.param == "disk":
        yield tmp_path
        return
    if not Path("/dev/shm").is_dir():
        pytest.skip("no second file system at /dev/shm")
    folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder)


def test_killed_runs_lose_nothing_and_end_as_one_that_was_not(start, num_rounds, place):
    random_moment, num_kills, number = random.Random(0), 0, 0
    duration = timed_whole_run(start, place)
    while num_kills < num_rounds:
        number += 1
        folder, step = place / f"run{number}", -1
        while True:
            process = start(folder, "resume=auto")
            process.join(None if num_kills == num_rounds else random_moment.uniform(0.3, 1.0) * duration)
            if not process.is_alive():
                break
            process.kill()
            process.join()
            num_kills += 1
            assert_whole(folder)
            assert last_step(folder) >= step
            step = last_step(folder)
        assert process.exitcode == 0, folder.with_suffix(".log").read_text()
        assert_same_end(folder, place / "whole")
    print(f"{num_kills} kills, {number} runs")
