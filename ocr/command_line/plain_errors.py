"""Errors of the input and of the machine end a program with their message alone."""

import errno
import logging
import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from ocr.errors import CacheError, DivergedError, InputError, OutOfMemory, StorageError, WorkerError
from ocr.file_names import shown, shown_lines
from ocr.memory.out_of_memory import ExplainOutOfMemory
from ocr.program import in_users_words

log = logging.getLogger(__name__)

FULL_ERROR = "HYDRA_FULL_ERROR"
"""Environment variable with which Hydra, and this module, show the whole traceback of an error."""
FULL_ERROR_AT_START = os.environ.get(FULL_ERROR)
"""Value that the user set; `run_command` changes the variable."""
_ADVICE = {
    errno.EACCES: "check its owner and permissions, or choose another path (hydra.run.dir=FOLDER for what a run writes)",
    errno.EPERM: "check its owner and permissions, or choose another path (hydra.run.dir=FOLDER for what a run writes)",
    errno.EROFS: "choose a path on a file system that can be written (hydra.run.dir=FOLDER for what a run writes)",
    errno.ENOSPC: "free some space, or choose another disk (hydra.run.dir=FOLDER for what a run writes)",
    errno.EDQUOT: "free some space, or choose another disk (hydra.run.dir=FOLDER for what a run writes)",
    errno.EISDIR: "give a file, not a folder",
    errno.ENOTDIR: "give a folder, not a file",
    errno.EEXIST: "give a folder, not a file",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f), or choose another disk (hydra.run.dir=FOLDER for what a run writes)",
    errno.ENOENT: "check the path",
    errno.ENAMETOOLONG: "choose a shorter name",
}
"""Advice for the commonest errors of the operating system."""


@contextmanager
def plain_errors(left_to_sweeper: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Ends the program with the message alone if the input is wrong, memory ran out, or a file cannot be read or written.

    HYDRA_FULL_ERROR=1 shows the traceback. All other errors are the program's own and always show theirs.

    Args:
        left_to_sweeper: errors that are logged and raised again, for Hydra's sweeper.
    """
    try:
        with ExplainOutOfMemory(when=""):  # for commands without advice of their own
            yield
    except left_to_sweeper as error:
        log.error("%s: %s", type(error).__name__, error)
        raise
    except (InputError, StorageError, CacheError, OutOfMemory, WorkerError, DivergedError) as error:
        end(error, str(error))
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _has_no_reader(sys.stdout.fileno()):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered
            raise SystemExit(128 + signal.SIGPIPE) from None
        end(error, _described(error))
    except RuntimeError as error:
        from dali_pipelines.source import SampleError  # loads torch, which --help must not

        if not isinstance(error, SampleError):
            raise
        end(error, str(error))


def _has_no_reader(descriptor: int) -> bool:
    """Returns whether the reader of a pipe has ended, as `head` does in `--cfg job | head`."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def end(error: Exception, message: str) -> NoReturn:
    """Ends the program with the message, or with the traceback if the user wants it."""
    if FULL_ERROR_AT_START == "1":
        raise error
    raise SystemExit(in_users_words(shown_lines(f"{type(error).__name__}: {message}"))) from None


def _described(error: OSError) -> str:
    """Returns place, problem and remedy of an error of the operating system; our own errors keep their text."""
    if error.errno is None:
        return str(error)
    where = " -> ".join(shown(os.fsdecode(name)) for name in (error.filename, error.filename2) if name is not None)
    advice = _ADVICE.get(error.errno, f"{FULL_ERROR}=1 shows where in the program")
    return f"{where or 'a file'}: {error.strerror}; {advice}"
