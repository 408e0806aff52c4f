"""The process that the tests of this folder kill, stop or starve of room: a run, and the fault that strikes it.

It imports nothing of the tests: it is started by its path, since other packages on the machine may be called `tests` too.
"""

import errno
import itertools
import logging
import os
import re
import signal
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ocr.command_line import compose_config, plain_errors
from ocr.config import PrepareConfig, TrainConfig
from ocr.preparation.prepare import prepare_data
from ocr.training.fit import train

OVERRIDES = (
    "data=upstage",
    "device=cpu",
    "pipeline.image_size=96",
    "pipeline.augmentation.crop_size=96",
    "dataloader.batch_size=2",
    "dataloader.num_workers=0",
    "model.backbone.name=test_resnet",
    "model.backbone.weights=null",
    "model.fpn_channels=16",
    "trainer.max_epochs=4",
    "trainer.precision=32-true",
    "trainer.save_every_n_steps=1",
    "trainer.log_every_n_steps=1",
    "logger.num_pictures=0",
)
"""Settings of a run that takes a few seconds, and that writes all the time."""
PREPARE_OVERRIDES = ("data=upstage", "shards=true", "shard_size=100000", "pipeline.image_size=96", "num_workers=2")
"""Settings of a preparation that writes upright images, maps and five shards."""
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
FILLER = "filler"
"""Name of the file that takes the room of a disk; it lies beside the folders of the runs."""


@dataclass(frozen=True)
class Strike:
    """A fault that strikes at one of the moments at which the process touches its files."""

    action: Literal["kill", "fill"]
    pattern: str
    """Regular expression of the file's name, relative to the run's folder."""
    number: int
    """Number of the event, from 1, among those of files with such a name: opened to be written, renamed or removed."""
    delay: float = 0.0
    """Seconds between the event and a kill; the process goes on meanwhile."""
    room: int = 0
    """Bytes that a full disk still has."""

    def hit(self, folder: Path) -> None:
        """Kills this process, or fills the disk of the folder."""
        if self.action == "fill":
            fill_disk(folder.parent, self.room)
        elif self.delay:
            threading.Thread(target=_kill_later, args=(self.delay,), daemon=True).start()
        else:
            os.kill(os.getpid(), signal.SIGKILL)


def run(folder: Path, notes: Path, kind: str, overrides: tuple[str, ...], strike: tuple[Any, ...] | None) -> None:
    """Trains or prepares data as the scripts do.

    Args:
        notes: path without its suffix: .log gets the log, .events the events of the files, .end what the script prints if it fails.
        strike: the fields of a `Strike`.
    """
    logging.basicConfig(filename=notes.with_suffix(".log"), level=logging.INFO, force=True)
    end = os.open(notes.with_suffix(".end"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    watch_files(folder, notes.with_suffix(".events"), Strike(*strike) if strike is not None else None)
    try:
        with plain_errors():
            _run(folder, kind, overrides)
    except BaseException as error:
        lines = str(error) if isinstance(error, SystemExit) else traceback.format_exc()
        os.write(end, lines.encode())
        raise


def _run(folder: Path, kind: str, overrides: tuple[str, ...]) -> None:
    if kind == "prepare":
        given = [*PREPARE_OVERRIDES, f"output={folder}/out", *overrides]
        prepare_data(compose_config(PrepareConfig, "prepare_data", given), folder / "run")
    else:
        train(compose_config(TrainConfig, "train", [*OVERRIDES, *overrides]), folder)


def watch_files(folder: Path, events: Path, strike: Strike | None) -> None:
    """Writes each event of a file below the folder into the file `events`, just before it happens, and strikes at one of them."""
    inside, numbers = f"{folder}{os.sep}", itertools.count(1)
    record = os.open(events, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in ("open", "os.rename", "os.remove") or not isinstance(arguments[0], (str, bytes, os.PathLike)):
            return
        path = os.fsdecode(arguments[0])
        if not path.startswith(inside) or (event == "open" and not arguments[2] & WRITING):
            return
        name = path.removeprefix(inside)
        os.write(record, f"{event.removeprefix('os.')} {name}\n".encode())
        if strike is not None and re.search(strike.pattern, name) and next(numbers) == strike.number:
            strike.hit(folder)

    sys.addaudithook(watch)


def num_events(events: Path, pattern: str) -> int:
    """Returns the number of recorded events of files with such a name."""
    return sum(re.search(pattern, line.partition(" ")[2]) is not None for line in events.read_text().splitlines())


def fill_disk(folder: Path, room: int) -> None:
    """Takes all space of a folder's file system but `room` bytes."""
    descriptor = os.open(folder / FILLER, os.O_WRONLY | os.O_CREAT)
    size = 0
    for step in (1 << 20, 4096):
        try:
            while True:
                os.posix_fallocate(descriptor, size, step)
                size += step
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
    os.ftruncate(descriptor, max(size - room, 0))
    os.close(descriptor)


def _kill_later(seconds: float) -> None:
    time.sleep(seconds)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    run(*globals()["ARGUMENTS"])  # set by the fixture `start`
