"""Errors that are the input's or the machine's, not the program's: scripts print them without a traceback."""


class InputError(ValueError):
    """A setting or a file that cannot be used; the message says where, what was found and what to do."""


class StorageError(Exception):
    """Where the data is cannot be read at all. Ends a run, where one bad file (OSError, ValueError) costs its place only: so
    it is neither of these."""


class OutOfMemory(Exception):
    """An allocation failed: what ran out, who holds what, and the command that takes less. Neither of those that one bad file
    raises, as above."""


class CacheError(RuntimeError):
    """An entry is not what its sample gives now."""
