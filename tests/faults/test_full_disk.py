"""A disk that fills up while a run writes: the run ends in words or does without the file, and continues once there is room."""

import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.process import FILLER, Strike, num_events
from tests.faults.runs import (
    assert_same_data,
    assert_same_end,
    assert_whole,
    assert_whole_data,
    assert_whole_entries,
    last_step,
    timed_whole_run,
)
from tests.faults.tally import Tally

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]
CACHE = "datasets.val_dataset.config.cache_config.directory=FOLDER/cache"
TRAIN = ("resume=auto", "logger.num_pictures=1", "trainer.max_epochs=2", CACHE)
OPTIONAL = (r"cache/", r"tensorboard/", r"pictures/")
"""Files without which a run goes on."""
FILES = {
    "train": (
        *(r"config\.yaml", r"audit_train\.json", r"audit_val\.json", r"last\.ckpt", r"best\.ckpt", r"metrics\.csv"),
        *(r"summary\.json", r"predictions\.json", *OPTIONAL),
    ),
    "prepare": (
        r"\.jpg",
        r"jsons/",
        r"\.npz",
        r"\.tar",
        r"\.idx",
        r"index\.json",
        r"prepared\.json",
        r"audit_.*",
        r"report\.json",
    ),
}
"""The kinds of files of a run, as regular expressions of their names."""
ROOMS = (0, 4096, 100_000, 1_000_000)
"""Bytes that the full disk still has: for no file at all, or for a part of a large one."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_runs_on_a_full_disk_end_in_words_and_continue_when_there_is_room(start, num_rounds, disk, request):
    tally = Tally("full disks")
    for kind in FILES:
        (disk / kind).mkdir()
        timed_whole_run(start, disk / kind, *_overrides(kind), kind=kind)
        shutil.rmtree(disk / kind / "first")
    places = [(kind, pattern) for kind, patterns in FILES.items() for pattern in patterns]
    for number, (kind, pattern) in enumerate(itertools.islice(itertools.cycle(places), num_rounds)):
        turn = number // len(places)
        whole = disk / kind / "whole"
        found = num_events(whole.with_suffix(".events"), pattern)
        strike = Strike("fill", pattern, 1 + turn * (found - 1) // 2 % found, room=ROOMS[(number + turn) % len(ROOMS)])
        tally.counts["places"] += 1
        with tally.case(f"{kind} at event {strike.number} of {found} of {pattern}, {strike.room} bytes left"):
            _fill_and_go_on(start, disk, kind, strike, tally)
        shutil.rmtree(disk / "run", ignore_errors=True)
        (disk / FILLER).unlink(missing_ok=True)
    tally.close()


def _overrides(kind: str) -> tuple[str, ...]:
    return TRAIN if kind == "train" else ()


def _fill_and_go_on(start, disk: Path, kind: str, strike: Strike, tally: Tally) -> None:
    folder, whole, notes = disk / "run", disk / kind / "whole", disk.parent / "run"
    process = start(folder, *_overrides(kind), kind=kind, strike=strike, notes=notes)
    process.join(300)
    process.kill()
    assert process.exitcode is not None, "hangs"
    assert (disk / FILLER).is_file(), "the disk was not filled"
    _check_part(folder, kind)
    step = last_step(folder)
    (disk / FILLER).unlink()
    if process.exitcode == 0:
        tally.counts["went on"] += 1
        assert any(re.search(pattern, strike.pattern) for pattern in OPTIONAL) or strike.room
    else:
        tally.counts["ended"] += 1
        message = notes.with_suffix(".end").read_text()
        assert "No space left" in message or "are free" in message, message
        assert "Traceback" not in message
        assert str(disk) in message, message
        print(f"{kind} {strike.pattern}: {message}")
    process = start(folder, *_overrides(kind), kind=kind, notes=notes)
    process.join()
    assert process.exitcode == 0, notes.with_suffix(".log").read_text()
    assert last_step(folder) >= step
    (assert_same_data if kind == "prepare" else assert_same_end)(folder, whole)


def _check_part(folder: Path, kind: str) -> None:
    if kind == "prepare":
        assert_whole_data(folder)
        return
    assert_whole(folder)
    if (folder / "cache").is_dir():
        assert_whole_entries(folder / "cache")
