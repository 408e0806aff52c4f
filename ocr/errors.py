"""Errors that are the input's fault, not the program's: scripts print them without a traceback."""


class InputError(ValueError):
    """A setting or a file that cannot be used; the message says where, what was found and what to do."""
