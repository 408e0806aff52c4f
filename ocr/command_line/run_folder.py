"""Removes the run folder of a command that wrote nothing there."""

import logging
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from ocr.command_line.configuration import is_given

_own_folder: tuple[Path, str] | None = None
"""Run folder of this process's command, where the user did not name it, and the name of its log there."""
_STARTED = time.time()


def note_own_folder() -> None:
    """Remembers the run folder of this Hydra job, unless it belongs to a multirun or the user named it with hydra.run.dir."""
    global _own_folder
    hydra = HydraConfig.get()
    if hydra.mode == RunMode.RUN and not is_given("hydra.run.dir"):
        _own_folder = Path(hydra.run.dir), f"{hydra.job.name}.log"


def remove_unused_folder() -> None:
    """Removes the run folder if it holds only what Hydra writes there, settings and log: the command failed before it wrote
    anything, or wrote it elsewhere. Folders above, up to the working folder, go too if they are empty then. A folder that the user
    named, or that was there before, stays."""
    if _own_folder is None:
        return
    folder, log_name = _own_folder
    with suppress(OSError):  # on a network file system, a file that is still open may keep its folder
        is_new = (folder / ".hydra").stat().st_mtime > _STARTED - 1
        if is_new and {entry.name for entry in folder.iterdir()} <= {".hydra", ".lock", log_name}:
            for handler in logging.getLogger().handlers[:]:
                if isinstance(handler, logging.FileHandler):
                    logging.getLogger().removeHandler(handler)
                    handler.close()
            shutil.rmtree(folder)
            if not folder.is_absolute():
                os.removedirs(folder.parent)
