"""The rank of this process, known before there is a trainer."""

from lightning.pytorch.utilities import rank_zero_only


def is_first_rank() -> bool:
    """Returns whether this process is the one that writes the run's files."""
    return getattr(rank_zero_only, "rank", 0) == 0
