"""The ranks of a run: how they meet, who is first, and how they end together.

A rank is one process of a run, with one device. The ranks of one machine are a node. torchrun and srun start all of them; with
trainer.devices alone, the first process of each node starts the others. They meet before a run reads its data.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any, TypeVar

import torch.distributed
from lightning.pytorch.utilities import rank_zero_only

from ocr.config import TrainerConfig
from ocr.errors import InputError, SignalExit
from ocr.placement import Placement
from ocr.training.devices import RunEnvironment, check_settings, gpus_of_ranks, num_devices
from ocr.training.meeting import Meeting, choose_network
from ocr.training.rank_watch import RankWatch

Value = TypeVar("Value")

_NO_LIMIT = timedelta(days=30)
"""Time limit of waits whose length depends on the data. `RankWatch` ends them if a rank dies."""
_COLLECTIVE_LIMIT = timedelta(minutes=30)
"""Least time limit of all other exchanges between the ranks; Lightning's."""

_current: "Ranks | None" = None
"""The ranks of the run of this process; None between runs."""


def is_first_rank() -> bool:
    """Returns whether this process is the one that writes the run's files."""
    return getattr(rank_zero_only, "rank", 0) == 0


def num_ranks_of_node() -> int:
    """Returns the number of processes of this run on this machine, which share its RAM."""
    return 1 if _current is None else _current.local_world_size


@contextmanager
def first_of_node_first() -> Iterator[None]:
    """Lets the first rank of each node run the `with` block alone; the others of the node run it when the first is done.

    The first rank makes files, and the others find them made:

        with first_of_node_first():
            data_set = build_dataset(...)  # the first rank audits and leaves its memo, the others read the memo

    The wait has no time limit: if the first rank fails or dies, the run ends and so does the wait. All ranks of a node must reach
    the block, equally often and in the same order. With one process the block just runs.
    """
    group = None if _current is None else _current.node_group
    is_first = group is None or torch.distributed.get_group_rank(group, torch.distributed.get_rank()) == 0
    if not is_first:
        _wait_for_all(group)
    yield
    if is_first:
        _wait_for_all(group)


class Ranks:
    """Context manager: the ranks of a run meet when it is entered, and end together.

    If one rank fails inside, its error is raised there, and all other processes end without a word, with the same exit code. If
    one dies, all others end and one line names it. A run of one process is not changed.

    Args:
        place: of this process.
        settings: number of devices and nodes, and the strategy.
        device: type of the devices, "cpu" or "cuda".

    Raises:
        InputError: the settings contradict torchrun or srun, this machine lacks the devices, or ranks do not come.
        WorkerError: a process that this one started has ended at once.
    """

    def __init__(self, place: Placement, settings: TrainerConfig, device: str) -> None:
        self.local_world_size = self.num_nodes = 1
        self.node_group: Any = None
        """The ranks of this node, for exchanges between host processes; None: this rank is alone on its node."""
        self._place, self._settings, self._device = place, settings, device
        self._gpus: list[int] | None = None
        self._gpu: torch.device | None = None
        """GPU of this rank; None on a CPU."""
        self._host_group: Any = None
        self._meeting: Meeting | None = None
        self._watch: RankWatch | None = None
        self._has_claimed = False

    def __enter__(self) -> "Ranks":
        global _current
        if self._place.starter == "itself":
            self.local_world_size, self.num_nodes = num_devices(self._settings, self._device), self._settings.num_nodes
            self._place = self._place.among(self.local_world_size, self.num_nodes)
        rank_zero_only.rank = self._place.rank  # type: ignore[attr-defined]  # Lightning's functions carry it
        try:
            if self._place.world_size > 1:
                self._meet()
            _current = self
            try:
                check_settings(self._settings, self._place, self.local_world_size, self.num_nodes)
            except InputError:
                if not is_first_rank():
                    time.sleep(60.0)  # the first rank finds the same, says so, and ends this process
                raise
            if self._device == "cuda":
                self._gpus = gpus_of_ranks(self._settings.devices, self.local_world_size)
                self._gpu = torch.device("cuda", self._gpus[self._place.local_rank % len(self._gpus)])
                torch.cuda.set_device(self._gpu)
            if self._watch is not None:
                self._join_groups(self._watch)
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        global _current
        if self._watch is not None and not self._has_claimed:
            if error is None or isinstance(error, SignalExit):
                _wait_for_all(self._host_group)
                self._watch.finish()
                torch.distributed.destroy_process_group()
            else:
                if isinstance(
                    error, RuntimeError
                ):  # torch's error after the death of a rank, which the watch will name
                    time.sleep(2.0)
                self.claim(1)
        if self._meeting is not None:
            self._meeting.end_children(at_once=error is not None and not isinstance(error, SignalExit))
        _current = None
        logging.disable(logging.NOTSET)

    @property
    def speaks(self) -> bool:
        """Whether this process is the one that says why the run ends."""
        return is_first_rank() or self._has_claimed

    def claim(self, code: int) -> None:
        """Returns if this rank is the first that fails, so that it can say why. Otherwise this process ends here, without a word.

        Args:
            code: exit code of the other processes.
        """
        self._has_claimed = True
        if self._watch is not None:
            self._watch.claim(code)

    def from_first(self, make: Callable[[], Value]) -> Value:
        """Returns what the first rank makes, on all ranks. It must be picklable."""
        values: list[Any] = [make() if is_first_rank() else None]
        if self._host_group is not None:
            _wait_for_all(self._host_group)
            torch.distributed.broadcast_object_list(values, 0, self._host_group)
        return values[0]

    def note_progress(self, what: str) -> None:
        """Counts a batch that this rank begins, so that the others see a rank that is stuck. All ranks must count the same batches.

        Args:
            what: names the batch, for the message.
        """
        if self._watch is not None:
            self._watch.note_progress(what)

    def start_training(self) -> None:
        """Lets all ranks log warnings. Until now they have seen the same settings and data, and only the first one has."""
        if not is_first_rank():
            logging.disable(logging.INFO)

    def lightning_arguments(self) -> dict[str, Any]:
        """Returns the arguments of Lightning's Trainer that say who takes part, and how."""
        is_alone = self._place.world_size == 1
        devices = 1 if is_alone else self.local_world_size
        return {
            "accelerator": "gpu" if self._gpus is not None else "cpu",
            "devices": devices if self._gpus is None else self._gpus,
            "num_nodes": self.num_nodes,
            "strategy": "ddp" if self._settings.strategy == "auto" and not is_alone else self._settings.strategy,
        }

    def environment(self) -> RunEnvironment:
        """Returns the plugin that tells Lightning which rank this process is."""
        sees_one_gpu = (
            self._gpus is not None and len(self._gpus) == 1
        )  # it is number 0 for each rank, see `gpus_of_ranks`
        node_rank = 0 if self._watch is None else self._nodes(self._watch).index(self._place.node)
        return RunEnvironment(self._place, 0 if sees_one_gpu else self._place.local_rank, node_rank)

    def _meet(self) -> None:
        if not is_first_rank():
            logging.disable(logging.WARNING)  # they would say what the first rank says
        self._meeting = Meeting(self._place, self.local_world_size)
        self._watch = self._meeting.watch()
        self._watch.watch_progress(60 * self._settings.stuck_rank_minutes)
        nodes = [member.node for member in self._watch.members]
        self.local_world_size, self.num_nodes = nodes.count(self._place.node), len(set(nodes))

    def _join_groups(self, watch: RankWatch) -> None:
        """Creates the process group of the run, and groups for the host processes of the run and of each node."""
        if self._meeting is None:
            raise RuntimeError("the ranks have not met")
        if self.num_nodes > 1:  # for gloo, which the host processes use beside NCCL too
            choose_network(self._meeting.address)
        torch.distributed.init_process_group(
            "gloo" if self._gpu is None else "nccl",
            store=self._meeting.group_store(),
            rank=self._place.rank,
            world_size=self._place.world_size,
            # Longer than the watch waits, which names the rank.
            timeout=max(_COLLECTIVE_LIMIT, timedelta(minutes=self._settings.stuck_rank_minutes + 1)),
            # Not on several nodes: versions of PyTorch before 2.15 would have the ranks outside a node's group split NCCL's
            # communicator, but not those inside, and all would wait for ever.
            device_id=self._gpu if self.num_nodes == 1 else None,
        )
        self._host_group = torch.distributed.new_group(backend="gloo", timeout=_NO_LIMIT)
        for node in self._nodes(watch):
            ranks = [member.rank for member in watch.members if member.node == node]
            group = torch.distributed.new_group(ranks, backend="gloo", timeout=_NO_LIMIT) if len(ranks) > 1 else None
            if node == self._place.node:
                self.node_group = group

    @staticmethod
    def _nodes(watch: RankWatch) -> list[str]:
        """Returns the names of the nodes, in the order of their first ranks."""
        return list(dict.fromkeys(member.node for member in watch.members))


def _wait_for_all(group: Any) -> None:
    """Returns when all ranks of the group are here. Signals are heard meanwhile, which a wait inside torch would not allow."""
    if group is None:
        return
    work = torch.distributed.barrier(group, async_op=True)
    while not work.is_completed():
        time.sleep(0.02)
    work.wait()
