"""kill -9 at random moments: nothing is cut, nothing is lost but the step under way, and the run that goes on ends the same.

Each target is killed on the file system of its data, and with its output on another one.
"""

import random
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.process import Strike, num_events
from tests.faults.runs import (
    assert_little_lost,
    assert_same_data,
    assert_same_end,
    assert_whole_data,
    assert_whole_entries,
    finished_files,
    last_step,
    timed_whole_run,
)
from tests.faults.tally import Tally

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]


@dataclass(frozen=True)
class Target:
    """The command that is killed while it writes."""

    name: str
    patterns: tuple[str, ...]
    """Names of files, as regular expressions; empty: any moment of the run."""
    progress: Callable[[Path], int]
    """Returns how much of a run's folder is done, which no kill may lessen."""
    check_part: Callable[[Path], None]
    """Checks the folder of a killed run."""
    check_end: Callable[[Path, Path], None]
    """Compares the folder of a run that was killed and continued with that of a whole run."""
    kind: str = "train"
    overrides: tuple[str, ...] = ("resume=auto",)


def _num_entries(folder: Path) -> int:
    return len(list((folder / "cache").glob("*.entry")))


def _check_cached_part(folder: Path) -> None:
    assert_little_lost(folder)
    if (folder / "cache").is_dir():
        assert_whole_entries(folder / "cache")


def _check_cached_end(folder: Path, whole: Path) -> None:
    assert_same_end(folder, whole)
    found, expected = ({path.name: path.read_bytes() for path in (one / "cache").iterdir()} for one in (folder, whole))
    assert found == expected


def _num_kept(folder: Path) -> int:
    """Returns the number of images, maps and shards. Indexes and annotations are withdrawn while these change."""
    return sum(path.suffix != ".json" for path in finished_files(folder))


RESULTS = (r"metrics\.csv", r"summary\.json", r"predictions\.json", r"audit_.*\.json", r"config\.yaml", r"metrics\.csv")
DATA = (r"\.tar", r"index\.json", r"\.idx", r"shards/", r"\.jpg", r"\.npz", r"jsons/", r"prepared\.json", r"")
TARGETS = (
    Target("train", (), last_step, assert_little_lost, assert_same_end),
    Target("checkpoint", (r"last\.ckpt", r"last\.ckpt", r"best\.ckpt"), last_step, assert_little_lost, assert_same_end),
    Target("summary", RESULTS, last_step, assert_little_lost, assert_same_end),
    Target("shards", DATA, _num_kept, assert_whole_data, assert_same_data, kind="prepare", overrides=()),
    Target(
        "cache",
        (r"\.writing", r"cache/"),
        _num_entries,
        _check_cached_part,
        _check_cached_end,
        overrides=(
            "trainer.max_epochs=2",
            "resume=auto",
            "datasets.val_dataset.config.cache_config.directory=FOLDER/cache",
        ),
    ),
)


@pytest.fixture(params=["one file system", "two file systems"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder on the file system of the data, or on another one."""
    if request.param == "one file system":
        yield tmp_path
        return
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system at /dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory))
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_killed_runs_lose_nothing_and_end_as_one_that_was_not(start, num_rounds, place, target, request):
    tally = Tally(f"kills of {request.node.callspec.id}")
    random_choice = random.Random(request.node.callspec.id)
    seconds = timed_whole_run(start, place, *target.overrides, kind=target.kind)
    while tally.counts["kills"] < num_rounds:
        tally.counts["runs"] += 1
        folder = place / f"run{tally.counts['runs']}"
        with tally.case(folder.name):
            progress = -1
            while True:
                strike = None
                if target.patterns and tally.counts["kills"] < num_rounds:
                    strike = _strike(target, tally.counts["kills"], place / "whole.events", random_choice)
                process = start(folder, *target.overrides, kind=target.kind, strike=strike)
                if not target.patterns and tally.counts["kills"] < num_rounds:
                    process.join(random_choice.uniform(0.1, 1.0) * seconds)
                    process.kill()
                process.join()
                if process.exitcode != -signal.SIGKILL:
                    break
                tally.counts["kills"] += 1
                target.check_part(folder)
                assert target.progress(folder) >= progress
                progress = target.progress(folder)
            assert process.exitcode == 0, folder.with_suffix(".log").read_text()
            target.check_end(folder, place / "whole")
    tally.close()


def _strike(target: Target, number: int, whole: Path, random_choice: random.Random) -> Strike:
    """Returns a kill at a random event of one kind of file, or within the 20 ms after it.

    It strikes in the first third of the events of a whole run: a run that continues has fewer of them left.
    """
    pattern = target.patterns[number % len(target.patterns)]
    found = num_events(whole, pattern)
    assert found, f"a whole run touches no file {pattern}"
    last = min(found, max(2, found // 3))
    delay = random_choice.choice((0.0, random_choice.uniform(0, 0.02)))
    return Strike("kill", pattern, random_choice.randint(1, last), delay=delay)
