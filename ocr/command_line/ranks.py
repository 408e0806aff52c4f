"""One command in several processes, which torchrun or srun started: the first speaks for all."""

import logging
import os
import time
from collections.abc import Sequence

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from ocr.errors import InputError
from ocr.placement import placement

log = logging.getLogger(__name__)

_PATIENCE = 10.0
"""Seconds that the first rank has to say what is wrong with the command line, before the others end."""


def without_files(arguments: Sequence[str]) -> list[str]:
    """Returns the command line with which Hydra writes no file and creates no folder: that of all ranks but the first."""
    own = (
        "hydra.run.dir=.",
        "hydra.output_subdir=null",
        "hydra/job_logging=stdout",
        "hydra.job_logging.root.level=WARNING",
    )
    keys = [override.partition("=")[0] for override in own]
    return [*(given for given in arguments if given.lstrip("+~").partition("=")[0] not in keys), *own]


def refuse_multirun_of_ranks() -> None:
    """Raises InputError if this job belongs to a multirun, and torchrun or srun started several processes for it."""
    place = placement()
    if place.world_size > 1 and HydraConfig.get().mode == RunMode.MULTIRUN:
        raise InputError(
            f"{place.starter} started {place.world_size} processes, but a multirun needs one; start each run by itself, or use "
            "trainer.devices=N without torchrun and srun"
        )


def go_on_alone() -> None:
    """Ends this process if it is one of several, and not the first, of a command that runs in one."""
    place = placement()
    if not place.is_first:
        raise SystemExit(0)
    if place.world_size > 1:
        name = HydraConfig.get().job.config_name
        log.warning(
            "scripts/%s.py runs in one process: only the first of the %d from %s works",
            name,
            place.world_size,
            place.starter,
        )


def leave_to_first_rank() -> None:
    """Ends this process without a word, unless it is the first rank. All ranks find the same fault in their command line."""
    if not placement().is_first:
        time.sleep(_PATIENCE)  # torchrun ends the others as soon as one ends
        os._exit(1)
