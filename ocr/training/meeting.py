"""Brings the ranks of a run together: starts those that nothing else starts, and connects all of them."""

import contextlib
import logging
import os
import socket
import subprocess
import sys
import time
from datetime import timedelta

import psutil
import torch.distributed
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from torch.distributed import PrefixStore, TCPStore

from ocr.errors import InputError, WorkerError
from ocr.placement import PROGRAM, Placement
from ocr.training.rank_watch import Member, RankWatch, meet

log = logging.getLogger(__name__)

MEETING_SECONDS = 600.0
"""Longest time from the start of the first rank to that of the last."""
END_SECONDS = 60.0
"""Time that the processes started here have to end after the run."""
_REPLY_LIMIT = timedelta(minutes=5)

_num_meetings = 0
"""Meetings of this process so far. torchrun keeps one store for all of them, so each has its own keys."""


class Meeting:
    """The place where the ranks meet, and the processes that this one has started for it.

    Args:
        place: of this process.
        local_world_size: processes of this node, if this program starts them.

    Raises:
        InputError: the place cannot be reached, or its port is taken.
    """

    def __init__(self, place: Placement, local_world_size: int) -> None:
        global _num_meetings
        _num_meetings += 1
        self._place = place
        self._deadline = time.monotonic() + MEETING_SECONDS
        self._children: list[subprocess.Popen[bytes]] = []
        host = place.address or "127.0.0.1"
        has_own_store = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or place.starter != "torchrun"
        if place.rank == 0 and has_own_store:
            self._store = _opened(host, place.port or 0, place.world_size)
        else:
            self._store = self._found(host, place.port or 0)
        self.address = address_towards(host)
        """Address of this machine in the network of the ranks."""
        if place.starter == "itself":
            self._start_children(local_world_size, host, self._store.port)

    def watch(self) -> RankWatch:
        """Returns the watch over all ranks, once they have come.

        Raises:
            InputError: some have not come in time.
            WorkerError: one that this process started has ended.
        """
        own = Member(self._place.rank, self._place.local_rank, self._place.node)
        store = PrefixStore(f"meeting{_num_meetings}", self._store)
        return meet(store, own, self._place.world_size, MEETING_SECONDS, self.address, self._check_children)

    def group_store(self) -> PrefixStore:
        """Returns the store for torch's process group."""
        return PrefixStore(f"group{_num_meetings}", self._store)

    def end_children(self, *, at_once: bool) -> None:
        """Waits for the processes that this one has started. One that does not end is killed."""
        for child in self._children:
            try:
                child.wait(0 if at_once else END_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def _found(self, host: str, port: int) -> TCPStore:
        """Returns the store of rank 0, or of torchrun, once it is there."""
        while True:
            try:
                socket.create_connection((host, port), timeout=2.0).close()
                return TCPStore(host, port, is_master=False, timeout=_REPLY_LIMIT)
            except (OSError, torch.distributed.DistError) as error:
                if time.monotonic() > self._deadline:
                    raise InputError(
                        f"rank {self._place.rank} on {socket.gethostname()} has found nobody at {host}:{port} for "
                        f"{MEETING_SECONDS:.0f} seconds ({error}); rank 0 must run there and be reachable by TCP"
                    ) from error
            time.sleep(0.2)

    def _start_children(self, local_world_size: int, host: str, port: int) -> None:
        """Starts the other processes of this node, with the command of this one and the variables of torchrun."""
        common = {
            "WORLD_SIZE": self._place.world_size,
            "LOCAL_WORLD_SIZE": local_world_size,
            "GROUP_RANK": self._place.node,
            "MASTER_ADDR": host,
            "MASTER_PORT": port,
        }
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TORCHELASTIC_")}
        for local_rank in range(1, local_world_size):
            own = {"RANK": self._place.rank + local_rank, "LOCAL_RANK": local_rank}
            environment = inherited | {name: str(value) for name, value in (common | own).items()}
            self._children.append(subprocess.Popen(_own_command(), env=environment))

    def _check_children(self) -> None:
        for local_rank, child in enumerate(self._children, 1):
            if child.poll() is not None:
                raise WorkerError(
                    f"rank {self._place.rank + local_rank} (process {child.pid}) has ended with code {child.returncode} before "
                    "the run began; its output above says why"
                )


def _opened(host: str, port: int, world_size: int) -> TCPStore:
    try:
        return TCPStore(host, port, world_size, is_master=True, timeout=_REPLY_LIMIT, wait_for_workers=False)
    except torch.distributed.DistError as error:
        raise InputError(
            f"rank 0 on {socket.gethostname()} cannot listen at {host}:{port}: {str(error).splitlines()[0]}; set MASTER_PORT to a "
            "free port"
        ) from error


def _own_command() -> list[str]:
    """Returns the command of this process. In a multirun it is that of the job under way."""
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        return [sys.executable, *PROGRAM, *HydraConfig.get().overrides.task]
    return [sys.executable, *sys.orig_argv[1:]]


def address_towards(host: str) -> str:
    """Returns the address with which this machine reaches a host; nothing is sent."""
    for family, kind, protocol, _, address in socket.getaddrinfo(host, 1, type=socket.SOCK_DGRAM):
        with contextlib.suppress(OSError), socket.socket(family, kind, protocol) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    return host


def choose_network(address: str) -> None:
    """Lets gloo use the network of this address. By itself it takes that of the host's name, often mapped to 127.0.1.1."""
    for name, entries in psutil.net_if_addrs().items():
        if name != "lo" and any(entry.address == address for entry in entries):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
