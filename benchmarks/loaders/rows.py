"""The rows of the benchmark: which loader, how tuned."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from benchmarks.loaders.config import Level
from benchmarks.loaders.own_loaders import Keeps, OwnLoader, Replay
from benchmarks.loaders.setting import Setting
from benchmarks.loaders.source import CannotRun, Files, Source
from ocr.datasets.shards.images import ShardReader
from ocr.errors import InputError

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Row:
    """One line of the tables."""

    name: str
    """For `only` and in the tables."""
    what: str
    """What it is, in words."""
    open: Callable[[Setting, Level, int], Source]
    """The loader for a level, with so many workers.

    Raises:
        CannotRun: not on this machine, or not at this level.
    """
    options: str | None = None
    """Overrides of scripts/train.py that train with this loader; None: it is another's, or only validation can have it."""
    is_ours: bool = False
    workers_are: Literal["processes", "threads", "none"] = "threads"


def _own(
    loader: Literal["dali", "torch"],
    keeps: Keeps = "nothing",
    on_gpu: bool | None = False,
    shard_reader: ShardReader | None = None,
) -> Callable[[Setting, Level, int], Source]:
    """on_gpu: None: wherever the run is."""

    def open_loader(setting: Setting, level: Level, num_workers: int) -> Source:
        device = setting.device if on_gpu is None else CPU
        if on_gpu:
            device = _gpu(setting)
        return OwnLoader(setting, level, loader, keeps, device, num_workers, shard_reader)

    return open_loader


def _gpu(setting: Setting) -> torch.device:
    if setting.device.type != "cuda":
        raise CannotRun("needs an NVIDIA GPU; torch sees no CUDA device here")
    return setting.device


def _rival(module: str, name: str) -> Callable[[Setting, Level, int], Source]:
    def open_rival(setting: Setting, level: Level, num_workers: int) -> Source:
        if setting.planner(level).is_random:
            raise CannotRun("makes no crops after this project's plan (augment=true)")
        from importlib import import_module  # here: the packages of the rivals are optional, and slow to import

        rival: Callable[[Files], Source] = getattr(import_module(f"benchmarks.loaders.rivals.{module}"), name)
        return rival(setting.files(level, num_workers))

    return open_rival


ROWS: tuple[Row, ...] = (
    Row(
        "replay",
        "one batch over and over: the limit",
        lambda setting, level, _: Replay(setting, level),
        None,
        True,
        "none",
    ),
    Row("torch", "PyTorch workers, libjpeg-turbo", _own("torch", on_gpu=None), "loader=torch", True, "processes"),
    Row(
        "torch_ram",
        "the same, files preloaded into RAM",
        _own("torch", "files", on_gpu=None),
        "loader=torch datasets.train_dataset.config.preload_images=true",
        True,
        "processes",
    ),
    Row(
        "torch_tensors",
        "the same, finished tensors kept",
        _own("torch", "tensors", on_gpu=None),
        is_ours=True,
        workers_are="processes",
    ),
    Row("dali_cpu", "DALI, CPU decoder", _own("dali"), "loader=dali", True),
    Row("dali_gpu", "DALI, GPU decoder", _own("dali", on_gpu=True), "loader=dali", True),
    Row(
        "dali_images",
        "DALI, decoded images kept",
        _own("dali", "images", on_gpu=None),
        "loader=dali datasets.train_dataset.config.cache_config.cache_decoded_images=true",
        True,
    ),
    Row(
        "dali_tensors",
        "DALI, finished tensors kept",
        _own("dali", "tensors", on_gpu=None),
        is_ours=True,
    ),
    Row(
        "webdataset_dali",
        "tar shards, DALI",
        _own("dali", on_gpu=None, shard_reader="dali"),
        is_ours=True,
    ),
    Row(
        "webdataset_torch",
        "tar shards, the webdataset package, PyTorch workers",
        _own("torch", on_gpu=None, shard_reader="webdataset"),
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
    """The rows called as one of `only`, or that and more after an underscore; all of them if there is none.

    Raises:
        InputError: a name fits no row.
    """
    wrong = [name for name in only if not any(_is_called(row, name) for row in ROWS)]
    if wrong:
        raise InputError(f"only={','.join(wrong)}: no such row; there are {', '.join(row.name for row in ROWS)}")
    return [row for row in ROWS if not only or any(_is_called(row, name) for name in only)]


def _is_called(row: Row, name: str) -> bool:
    return row.name == name or row.name.startswith(f"{name}_")
