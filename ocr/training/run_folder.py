"""The checkpoints in the folder of a run: the one to resume from, and those of an earlier run."""

import logging
from pathlib import Path

from ocr.checkpoint import read_checkpoint
from ocr.errors import InputError

log = logging.getLogger(__name__)

CHECKPOINTS = ("last.ckpt", "best.ckpt")
"""Names in the folder `checkpoints` of a run, in the order in which resume=auto prefers them among files of the same age."""


def newest_checkpoint(run_dir: Path) -> Path | None:
    """Returns the newest checkpoint of a run folder that is whole; None without one."""
    found = [path for name in CHECKPOINTS if (path := run_dir / "checkpoints" / name).is_file()]
    for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            read_checkpoint(path, "resume")
            return path
        except InputError as error:
            log.warning("%s; it is ignored", error)
    return None


def set_checkpoints_aside(run_dir: Path) -> None:
    """Renames the checkpoints of an earlier run in the folder of a new one, so that nothing takes them for the new run's.

    last.ckpt becomes earlier_last.ckpt. A file of that name, from a still earlier run, is replaced.
    """
    folder = run_dir / "checkpoints"
    for name in CHECKPOINTS:
        if (folder / name).is_file():
            (folder / name).replace(folder / f"earlier_{name}")
            log.info(
                "%s is from an earlier run. This one starts anew, so it is now called earlier_%s", folder / name, name
            )
