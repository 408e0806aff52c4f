"""Where this process stands among those of its run: torchrun and srun say so in environment variables.

    starter    variables                                            the ranks meet at
    torchrun   RANK WORLD_SIZE LOCAL_RANK GROUP_RANK                MASTER_ADDR:MASTER_PORT
    srun       SLURM_PROCID SLURM_NTASKS SLURM_LOCALID SLURM_NODEID  the first host of SLURM_NODELIST, a port from SLURM_JOB_ID
    itself     NODE_RANK, with several nodes                        MASTER_ADDR:MASTER_PORT, or this machine

The processes that a training starts itself get torchrun's variables. Importing this file loads neither torch nor Lightning.
"""

import os
import re
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from ocr.errors import InputError

PROGRAM = tuple(sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1])
"""Program that this process runs: the part of its command between Python and the program's own arguments."""
_FIRST_PORT, _NUM_PORTS = 15_000, 16_000
"""Ports below those that Linux gives to outgoing connections."""


@dataclass(frozen=True)
class Placement:
    """A process among those of its run."""

    starter: Literal["torchrun", "srun", "itself"] = "itself"
    """Source of the number of processes. itself: this program, from trainer.devices and trainer.num_nodes."""
    rank: int = 0
    world_size: int = 1
    """Number of ranks, on all nodes."""
    local_rank: int = 0
    node: str = "0"
    """Name of the node; the ranks of a node share it. With starter "itself" it is the node's number."""
    address: str | None = None
    """Host where the ranks meet. None: this machine."""
    port: int | None = None
    """Port at that address. None: any that is free."""

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files of its run."""
        return self.rank == 0 and (self.starter != "itself" or self.node == "0")

    def among(self, local_world_size: int, num_nodes: int) -> "Placement":
        """Returns the place of the first process of a node whose other processes this program starts.

        Raises:
            InputError: there are several nodes, but the environment does not say which one this is, or where they meet.
        """
        if num_nodes > 1 and (self.address is None or self.port is None or int(self.node) >= num_nodes):
            raise InputError(
                f"found trainer.num_nodes={num_nodes}, but neither torchrun nor srun started this process; start it with one of "
                f"them on each node, or set MASTER_ADDR, MASTER_PORT and NODE_RANK (0 to {num_nodes - 1}) there"
            )
        place = replace(self, rank=int(self.node) * local_world_size, world_size=num_nodes * local_world_size)
        return place if num_nodes > 1 else replace(place, rank=0, node="0", address=None, port=None)


def placement(environment: Mapping[str, str] = os.environ) -> Placement:
    """Returns the place of this process as its environment variables tell it.

    torchrun comes before srun, since it can run inside a SLURM job. Variables of SLURM without its task number are those of a shell
    inside a job, which is no rank.

    Raises:
        InputError: a variable is missing or no number, or mpirun started this process.
    """
    is_elastic = "TORCHELASTIC_RUN_ID" in environment
    if "RANK" in environment and (is_elastic or _number(environment, "WORLD_SIZE", 1) > 1):
        return _of_torchrun(environment)
    if _number(environment, "SLURM_NTASKS", 1) > 1 and "SLURM_PROCID" in environment and not _is_shell(environment):
        return _of_srun(environment)
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE"):
        if _number(environment, name, 1) > 1:
            raise InputError(
                f"found {name}={environment[name]}: mpirun started several processes, which would be separate runs; start them "
                "with torchrun or srun"
            )
    port = _number(environment, "MASTER_PORT") if "MASTER_PORT" in environment else None
    node = str(_number(environment, "NODE_RANK", 0))
    return Placement(node=node, address=environment.get("MASTER_ADDR"), port=port)


def _of_torchrun(environment: Mapping[str, str]) -> Placement:
    rank = _number(environment, "RANK")
    local_rank = _number(environment, "LOCAL_RANK", rank if "LOCAL_WORLD_SIZE" not in environment else None)
    node = environment.get("GROUP_RANK") or environment.get("NODE_RANK") or socket.gethostname()
    return Placement(
        "torchrun",
        rank,
        _number(environment, "WORLD_SIZE"),
        local_rank,
        node,
        _text(environment, "MASTER_ADDR"),
        _number(environment, "MASTER_PORT"),
    )


def _of_srun(environment: Mapping[str, str]) -> Placement:
    job, step = _number(environment, "SLURM_JOB_ID", 0), _number(environment, "SLURM_STEP_ID", 0)
    nodes = (
        environment.get("SLURM_STEP_NODELIST")
        or environment.get("SLURM_NODELIST")
        or _text(environment, "SLURM_JOB_NODELIST")
    )
    return Placement(
        "srun",
        _number(environment, "SLURM_PROCID"),
        _number(environment, "SLURM_NTASKS"),
        _number(environment, "SLURM_LOCALID"),
        environment.get("SLURM_NODEID") or socket.gethostname(),
        environment.get("MASTER_ADDR") or first_host(nodes),
        _number(environment, "MASTER_PORT", _FIRST_PORT + (job + 1009 * step) % _NUM_PORTS),
    )


def first_host(nodes: str) -> str:
    """Returns the first host of SLURM's list of nodes: "a" of "a,b"; "gpu03" of "gpu[03-05,09],login1"."""
    match = re.match(r"([^\[,\s]*)(?:\[([^\],-]+)[^\]]*\]([^\[,\s]*))?", nodes)
    return "" if match is None else "".join(part or "" for part in match.groups())


def _is_shell(environment: Mapping[str, str]) -> bool:
    """Returns whether the SLURM task is an interactive shell, from which the user starts programs by hand."""
    return environment.get("SLURM_JOB_NAME") in ("bash", "interactive")


def _text(environment: Mapping[str, str], name: str) -> str:
    if not environment.get(name):
        raise InputError(
            f"the environment variable {name} is not set, but this process is one of several; start it with torchrun or srun"
        )
    return environment[name]


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name, "")
    if not text and default is not None:
        return default
    if not re.fullmatch(r"\d{1,10}", _text(environment, name), re.ASCII):
        raise InputError(f"the environment variable {name} is {text!r}; expected a number; torchrun and srun set it")
    return int(text)
