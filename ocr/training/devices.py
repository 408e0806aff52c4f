"""Decides how many processes a run has on each node and which GPU each one takes, and reports that to Lightning."""

import logging
import os
import socket

import torch
from lightning.fabric.plugins.environments import ClusterEnvironment

from ocr.config import TrainerConfig
from ocr.errors import InputError
from ocr.placement import Placement

log = logging.getLogger(__name__)

_OTHER_STARTERS = ("spawn", "fork", "notebook", "single_device")
"""Parts of the names of strategies with which Lightning starts the processes in another way, or none."""


_FEW_PROCESSES = 8
"""Number of processes that a run may have on a CPU with fewer cores."""


def num_devices(settings: TrainerConfig, device: str) -> int:
    """Returns the number of processes that trainer.devices means on this machine.

    Args:
        device: "cpu" or "cuda".

    Raises:
        InputError: this machine lacks the devices.
    """
    devices = settings.devices
    if device == "cpu":
        if devices == "auto":
            return 1
        if not str(devices).isdecimal() or int(devices) < 1:
            raise InputError(
                f"found trainer.devices={devices} on a CPU; expected a number of processes, such as trainer.devices=2, or auto "
                "for one"
            )
        most = max(os.cpu_count() or 1, _FEW_PROCESSES)
        if len(str(devices)) > 9 or int(devices) > most:
            raise InputError(
                f"found trainer.devices={devices} on a CPU; expected at most {most}: each is a process, and this machine "
                f"has {os.cpu_count()} cores"
            )
        return int(devices)
    return len(_chosen_gpus(devices, torch.cuda.device_count()))


def check_settings(settings: TrainerConfig, place: Placement, local_world_size: int, num_nodes: int) -> None:
    """Compares the settings with the processes that there are. torchrun and srun decide; 1 and auto leave it to them.

    Raises:
        InputError: the settings contradict torchrun or srun, or the strategy starts processes in another way.
    """
    if place.world_size > 1 and any(name in settings.strategy for name in _OTHER_STARTERS):
        raise InputError(
            f"found trainer.strategy={settings.strategy}, which does not fit a run of {place.world_size} processes; use "
            "trainer.strategy=ddp"
        )
    if place.starter == "itself":
        return
    given = settings.devices
    count = len(given.strip(",").split(",")) if isinstance(given, str) and "," in given else given
    contradictions = []
    if count not in ("auto", -1, 1, local_world_size, str(local_world_size)):
        contradictions.append(
            f"trainer.devices={given}, but {place.starter} started {local_world_size} processes on this node"
        )
    if settings.num_nodes not in (1, num_nodes):
        contradictions.append(f"trainer.num_nodes={settings.num_nodes}, but with {place.starter} it is {num_nodes}")
    if contradictions:
        raise InputError(
            f"found {'; '.join(contradictions)}; leave out trainer.devices and trainer.num_nodes, or make them agree"
        )
    if count == 1 and local_world_size > 1:
        log.info("trainer.devices=1 is one device for each of the %d processes of this node: one run", local_world_size)


def gpus_of_ranks(devices: int | str, local_world_size: int) -> list[int]:
    """Returns the number of the GPU that each rank of this node takes.

    SLURM may show each task only its own GPU (--gpus-per-task): then the list holds that one.

    Raises:
        InputError: this machine lacks the GPUs.
    """
    visible = torch.cuda.device_count()
    if visible == 1 and local_world_size > 1:
        return [0]
    named = isinstance(devices, str) and "," in devices
    return _chosen_gpus(devices if named else local_world_size, visible)


def _chosen_gpus(devices: int | str, visible: int) -> list[int]:
    if devices in ("auto", -1):
        return list(range(visible))
    if isinstance(devices, str) and "," in devices:
        chosen = [int(number) for number in devices.strip(",").split(",")]
    else:
        chosen = list(range(int(devices)))
    if not chosen or max(chosen) >= visible or len(set(chosen)) < len(chosen):
        raise InputError(
            f"found trainer.devices={devices}, but PyTorch sees {visible} GPUs on {socket.gethostname()}; give at most that "
            "many, or their numbers from 0"
        )
    return chosen


class RunEnvironment(ClusterEnvironment):
    """Tells Lightning which rank this process is. Lightning starts no processes, and handles none of SLURM's signals."""

    def __init__(self, place: Placement, local_rank: int = 0, node_rank: int = 0) -> None:
        super().__init__()
        self._place, self._local_rank, self._node_rank = place, local_rank, node_rank

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return self._place.address or "127.0.0.1"

    @property
    def main_port(self) -> int:
        """Port at which one process with strategy=ddp meets itself. Several ranks have met before."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            return int(free.getsockname()[1])

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self._place.world_size

    def set_world_size(self, size: int) -> None:
        """Does nothing: the size is known."""

    def global_rank(self) -> int:
        return self._place.rank

    def set_global_rank(self, rank: int) -> None:
        """Does nothing: the rank is known."""

    def local_rank(self) -> int:
        return self._local_rank

    def node_rank(self) -> int:
        return self._node_rank
