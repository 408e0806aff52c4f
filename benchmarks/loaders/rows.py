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
Workers = Literal["processes", "threads", "none"]


@dataclass(frozen=True)
class Row:
    """One line of the tables."""

    name: str
    """Name in `only` and in the tables."""
    description: str
    open: OpenLoader
    options: str | None = None
    """Overrides of scripts/train.py that select this loader for training; None: training cannot use it."""
    is_ours: bool = False
    workers_are: Workers = "none"
    decodes_scaled: bool = False
    """Decodes JPEGs at a fraction of their size, so that its pixels are not those of the other rows."""


def _own(name: str, description: str, kind: LoaderKind, options: str | None = None, on_gpu: bool | None = None) -> Row:
    """Returns a row of this project, on the GPU, on the CPU, or with on_gpu=None on the device of the run."""

    def open_loader(workload: Workload, level: Level, num_workers: int) -> RowLoader:
        if on_gpu and workload.device.type != "cuda":
            raise CannotRun("needs an NVIDIA GPU; torch sees no CUDA device here")
        device = torch.device("cpu") if on_gpu is False else workload.device
        return OwnLoader(workload, level, kind, device, num_workers)

    workers_are: Workers = "processes" if kind.engine == "torch" else "threads"
    return Row(
        name, description, open_loader, options, is_ours=True, workers_are=workers_are, decodes_scaled=kind.scaled
    )


def _rival(
    name: str, description: str, module: str, function: str, workers_are: Workers, decodes_scaled: bool = False
) -> Row:
    def open_rival(workload: Workload, level: Level, num_workers: int) -> RowLoader:
        if workload.planner(level).is_random:
            raise CannotRun("does not make the training crops of this project's plan (augment=true)")
        from importlib import import_module  # here: the packages of the rivals are optional, and slow to import

        rival: Callable[[RivalFiles], RowLoader]
        rival = getattr(import_module(f"benchmarks.loaders.rivals.{module}"), function)
        return rival(workload.files(level, num_workers))

    return Row(name, description, open_rival, workers_are=workers_are, decodes_scaled=decodes_scaled)


_PRELOADED = "loader=torch datasets.train_dataset.config.preload_images=true"
_IMAGES_KEPT = "loader=dali datasets.train_dataset.config.cache_config.cache_decoded_images=true"
_TORCH_SCALED = "loader=torch pipeline.scaled_decode=true"
_DALI_SCALED = "loader=dali pipeline.scaled_decode=true"
_SHARDS = "tar shards, the webdataset package, PyTorch workers"

ROWS: tuple[Row, ...] = (
    Row(
        "replay", "one batch over and over: the limit", lambda workload, level, _: Replay(workload, level), is_ours=True
    ),
    _own("torch", "PyTorch workers, libjpeg-turbo", LoaderKind("torch"), "loader=torch"),
    _own("torch_ram", "the same, files preloaded into RAM", LoaderKind("torch", "files"), _PRELOADED),
    _own("torch_scaled", "the same, scaled_decode", LoaderKind("torch", scaled=True), _TORCH_SCALED),
    _own("torch_tensors", "the same, finished tensors kept", LoaderKind("torch", "tensors")),
    _own("dali_cpu", "DALI, CPU decoder", LoaderKind("dali"), "loader=dali", on_gpu=False),
    _own("dali_scaled", "DALI reads, scaled_decode", LoaderKind("dali", scaled=True), _DALI_SCALED, on_gpu=False),
    _own("dali_gpu", "DALI, GPU decoder", LoaderKind("dali"), "loader=dali", on_gpu=True),
    _own("dali_images", "DALI, decoded images kept", LoaderKind("dali", "images"), _IMAGES_KEPT),
    _own("dali_tensors", "DALI, finished tensors kept", LoaderKind("dali", "tensors")),
    _own("webdataset_dali", "tar shards, DALI", LoaderKind("dali", shard_reader="dali")),
    _own("webdataset_torch", _SHARDS, LoaderKind("torch", shard_reader="webdataset")),
    _rival(
        "albumentations",
        "PyTorch workers, Pillow, Albumentations",
        "albumentations_loader",
        "albumentations_loader",
        "processes",
    ),
    _rival(
        "turbojpeg",
        "PyTorch workers, scaled libjpeg-turbo",
        "turbojpeg_loader",
        "turbojpeg_loader",
        "processes",
        decodes_scaled=True,
    ),
    _rival("torchvision", "PyTorch workers, torchvision v2", "torchvision_loader", "torchvision_loader", "processes"),
    _rival("torchvision_cuda", "torchvision, CUDA decode_jpeg", "torchvision_loader", "TorchvisionCuda", "threads"),
    _rival("spdl_scaled", "SPDL threads, scaled libjpeg-turbo", "spdl_loader", "spdl_scaled", "threads", True),
    _rival("spdl_antialiased", "SPDL threads, whole decode", "spdl_loader", "spdl_antialiased", "threads"),
    _rival(
        "wds", "the webdataset package alone, tar shards", "webdataset_loader", "webdataset_loader", "processes", True
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
