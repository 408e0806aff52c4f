"""The ranks of a run: who they are, and how they wait for each other.

A rank is one process of a run, with one device. The ranks of one machine are a node.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed
from lightning.pytorch.utilities import rank_zero_only

_node_group: Any = None
"""The ranks of this node, once they have met; None: this process runs alone."""


def is_first_rank() -> bool:
    """Returns whether this process is the one that writes the run's files."""
    return getattr(rank_zero_only, "rank", 0) == 0


@contextmanager
def first_of_node_first() -> Iterator[None]:
    """Lets the first rank of each node run the `with` block alone; the others of the node run it when the first is done.

    The first rank makes files, and the others find them made:

        with first_of_node_first():
            data_set = build_dataset(...)  # the first rank audits and leaves its memo, the others read the memo

    The wait has no time limit: if the first rank fails or dies, the run ends and so does the wait. All ranks of a node must reach
    the block, equally often and in the same order. With one process the block just runs.
    """
    if _node_group is None:
        yield
        return
    is_first = torch.distributed.get_group_rank(_node_group, torch.distributed.get_rank()) == 0
    if not is_first:
        torch.distributed.barrier(_node_group)
    yield
    if is_first:
        torch.distributed.barrier(_node_group)
