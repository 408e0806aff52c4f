"""The rows of the benchmark, in the order of the tables."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from benchmarks.loaders.config import Level
from benchmarks.loaders.own_loaders import LoaderKind, OwnLoader, Replay
from benchmarks.loaders.row_loader import CannotRun, RivalFiles, RowLoader
from benchmarks.loaders.workload import Workload
from ocr.errors import InputError

OpenLoader = Callable[[Workload, Level, int], RowLoader]
"""Makes the loader for a level with a number of workers.

Raises:
    CannotRun: not on this machine, or not at this level.
"""


@dataclass(frozen=True)
class Row:
    """One line of the tables."""

    name: str
    """In `only` and in the tables."""
    description: str
    open: OpenLoader
    options: str | None = None
    """Overrides of scripts/train.py that select this loader for training; None: training cannot use it."""
    is_ours: bool = False
    workers_are: Literal["processes", "threads", "none"] = "threads"


def _own(kind: LoaderKind, on_gpu: bool | None = None) -> OpenLoader:
    """on_gpu: None: on the device of the run."""

    def open_loader(workload: Workload, level: Level, num_workers: int) -> RowLoader:
        device = workload.device if on_gpu is None else torch.device("cpu")
        if on_gpu:
            device = _gpu(workload)
        return OwnLoader(workload, level, kind, device, num_workers)

    return open_loader


def _gpu(workload: Workload) -> torch.device:
    if workload.device.type != "cuda":
        raise CannotRun("needs an NVIDIA GPU; torch sees no CUDA device here")
    return workload.device


def _rival(module: str, name: str) -> OpenLoader:
    def open_rival(workload: Workload, level: Level, num_workers: int) -> RowLoader:
        if workload.planner(level).is_random:
            raise CannotRun("makes no crops after this project's plan (augment=true)")
        from importlib import import_module  # here: the packages of the rivals are optional, and slow to import

        rival: Callable[[RivalFiles], RowLoader] = getattr(import_module(f"benchmarks.loaders.rivals.{module}"), name)
        return rival(workload.files(level, num_workers))

    return open_rival


ROWS: tuple[Row, ...] = (
    Row(
        "replay",
        "one batch over and over: the limit",
        lambda workload, level, _: Replay(workload, level),
        is_ours=True,
        workers_are="none",
    ),
    Row(
        "torch",
        "PyTorch workers, libjpeg-turbo",
        _own(LoaderKind("torch")),
        "loader=torch",
        is_ours=True,
        workers_are="processes",
    ),
    Row(
        "torch_ram",
        "the same, files preloaded into RAM",
        _own(LoaderKind("torch", "files")),
        "loader=torch datasets.train_dataset.config.preload_images=true",
        is_ours=True,
        workers_are="processes",
    ),
    Row(
        "torch_tensors",
        "the same, finished tensors kept",
        _own(LoaderKind("torch", "tensors")),
        is_ours=True,
        workers_are="processes",
    ),
    Row("dali_cpu", "DALI, CPU decoder", _own(LoaderKind("dali"), on_gpu=False), "loader=dali", is_ours=True),
    Row("dali_gpu", "DALI, GPU decoder", _own(LoaderKind("dali"), on_gpu=True), "loader=dali", is_ours=True),
    Row(
        "dali_images",
        "DALI, decoded images kept",
        _own(LoaderKind("dali", "images")),
        "loader=dali datasets.train_dataset.config.cache_config.cache_decoded_images=true",
        is_ours=True,
    ),
    Row("dali_tensors", "DALI, finished tensors kept", _own(LoaderKind("dali", "tensors")), is_ours=True),
    Row("webdataset_dali", "tar shards, DALI", _own(LoaderKind("dali", shard_reader="dali")), is_ours=True),
    Row(
        "webdataset_torch",
        "tar shards, the webdataset package, PyTorch workers",
        _own(LoaderKind("torch", shard_reader="webdataset")),
        is_ours=True,
        workers_are="processes",
    ),
    Row(
        "albumentations",
        "PyTorch workers, Pillow, Albumentations",
        _rival("albumentations_loader", "albumentations_loader"),
        workers_are="processes",
    ),
    Row(
        "turbojpeg",
        "PyTorch workers, scaled libjpeg-turbo",
        _rival("turbojpeg_loader", "turbojpeg_loader"),
        workers_are="processes",
    ),
    Row(
        "torchvision",
        "PyTorch workers, torchvision v2",
        _rival("torchvision_loader", "torchvision_loader"),
        workers_are="processes",
    ),
    Row("torchvision_cuda", "torchvision, CUDA decode_jpeg", _rival("torchvision_loader", "TorchvisionCuda")),
    Row("spdl_scaled", "SPDL threads, scaled libjpeg-turbo", _rival("spdl_loader", "spdl_scaled")),
    Row("spdl_antialiased", "SPDL threads, whole decode", _rival("spdl_loader", "spdl_antialiased")),
    Row(
        "wds",
        "the webdataset package alone, tar shards",
        _rival("webdataset_loader", "webdataset_loader"),
        workers_are="processes",
    ),
)


def chosen_rows(only: Sequence[str]) -> list[Row]:
    """Returns the rows named by `only`, a name `x` standing for `x` and all `x_...`; all rows if it is empty.

    Raises:
        InputError: a name fits no row.
    """
    wrong = [name for name in only if not any(_is_called(row, name) for row in ROWS)]
    if wrong:
        raise InputError(f"only={','.join(wrong)}: no such row; there are {', '.join(row.name for row in ROWS)}")
    return [row for row in ROWS if not only or any(_is_called(row, name) for name in only)]


def _is_called(row: Row, name: str) -> bool:
    return row.name == name or row.name.startswith(f"{name}_")
