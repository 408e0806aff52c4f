"""The state of a file or folder: numbers that change with its content, kept from one start to the next."""

import os
import time
from pathlib import Path

from dali_pipelines.signature import Signature, signature_of

MISSING: Signature = (-1, -1, -1, -1)
"""Stands for the signature of a file that is not there."""
TOO_RECENT: Signature = (-3, -3, -3, -3)
"""Stands for the signature of a file that changed just before it was read: a change right after could leave its times the same."""
_TICK_NS = 20_000_000
"""Longest time between two ticks of the clock that file systems take their times from."""


def settled(signature: Signature) -> Signature:
    """Returns the signature of a file that is read now or was read just now, or `TOO_RECENT`."""
    now, mtime, ctime = time.time_ns(), *signature[2:]
    # Archives from another time zone bring modification times in the future. They say nothing: a change sets ctime too.
    is_recent = now - ctime < _TICK_NS or 0 <= now - mtime < _TICK_NS
    return TOO_RECENT if is_recent and signature != MISSING else signature


def state_of(path: Path) -> list[int]:
    """Returns the signature of a file or folder for JSON. It equals no other if the file has only just changed."""
    signature = settled(signature_of(str(path)) or MISSING)
    return [*signature, *os.urandom(8)] if signature == TOO_RECENT else list(signature)
