"""Errors caused by the input or the machine, not by the program. Scripts print them without a traceback."""


class InputError(ValueError):
    """A setting or file cannot be used; the message says where, what was found and what to do."""


class StorageError(Exception):
    """The storage cannot be read at all, which ends the run. Not an OSError or ValueError: those mean one bad file, which a run may
    skip."""


class OutOfMemory(Exception):
    """Memory ran out; the message says which memory, who holds it, and which command needs less. Like StorageError, this is neither
    an OSError nor a ValueError."""


class CacheError(RuntimeError):
    """A cache entry differs from what its image gives now."""


class WorkerError(Exception):
    """A worker process died, hangs, or found no room in shared memory; the message says what to do."""


class SignalExit(SystemExit):
    """The end of a program that a signal stopped, with its exit code. Everything is written."""


class DivergedError(Exception):
    """The loss or the weights of a run are NaN or infinite; the message says since when, and which checkpoint is good."""
