"""Chooses what executes a plan: DALI on files, DALI on tar shards, or PyTorch worker processes.

DALI is imported here, and only where it is chosen.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import torch

from dali_pipelines.source import ImageBatch, PlannedBatches, SourceImages
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.shards.images import ShardImages
from ocr.errors import InputError
from ocr.loaders.torch_workers import TorchLoader

if TYPE_CHECKING:
    from dali_pipelines.loader import DaliLoader


class ImageLoader(Protocol):
    """Executes plans. All implementations yield the same images for the same plan."""

    def batches(self, plan: PlannedBatches, first_step: int = 0) -> Iterator[ImageBatch]:
        """Yields the images of `plan` from `first_step` on."""

    def release(self) -> None:
        """Frees pipelines, threads and processes; the next call of `batches` builds them again."""


@dataclass(frozen=True)
class Engine:
    """The library that decodes and augments the images, and its device."""

    name: Literal["dali", "torch"]
    device: torch.device
    num_workers: int = 0
    """Worker processes of "torch". DALI has threads instead (pipeline.num_threads)."""
    skip_failures: bool = True
    """A file that fails loses its slot and is reported; False: SampleError."""
    worker_timeout: float = 0
    """Seconds to wait for a batch of a worker; 0: for ever."""


def has_dali() -> bool:
    """Returns whether NVIDIA DALI can be imported."""
    return _why_dali_is_missing() is None


def check_dali(loader: str) -> None:
    """Passes if NVIDIA DALI can be imported.

    Args:
        loader: the value of `loader` that needs DALI: dali, or webdataset with shard_reader=dali.

    Raises:
        InputError: it cannot; the message says why, and what works without it.
    """
    reason = _why_dali_is_missing()
    if reason is None:
        return
    instead = "loader=torch" if loader == "dali" else "dataloader.shard_reader=webdataset"
    raise InputError(
        f"loader={loader} needs NVIDIA DALI, and this Python cannot import it ({reason}); use {instead}, which makes the same "
        "samples. DALI has packages for Linux on x86_64 and aarch64: pip install nvidia-dali-cuda120"
    )


def _why_dali_is_missing() -> str | None:
    try:
        from nvidia.dali import __version__  # noqa: F401  # empty folders of a removed package pass as `nvidia.dali`
    except ImportError as error:
        return str(error)
    return None


def image_loader(
    dataset: ValidatedOCRDataset, engine: Engine, *, batch_size: int, levels: bool, failures: dict[str, str]
) -> ImageLoader:
    """Returns the loader of a data set's images.

    Args:
        batch_size: largest batch of a plan.
        levels: images are uint8 levels, not normalised; evaluation only.
        failures: the loader adds the reason for each file that fails, by path.

    Raises:
        InputError: the engine is DALI, which is not installed.
    """
    if engine.name == "torch":  # reads shards too, through dataset.manifest.images
        return TorchLoader(
            dataset,
            num_workers=engine.num_workers,
            device=engine.device,
            skip_failures=engine.skip_failures,
            levels=levels,
            failures=failures,
            timeout=engine.worker_timeout,
        )
    manifest, kept = dataset.manifest, dataset.kept_images
    check_dali("webdataset" if isinstance(manifest.images, ShardImages) else "dali")
    stored = (manifest.largest_stored, manifest.stored_sizes, manifest.orientations)
    images = manifest.images
    if not isinstance(images, ShardImages):
        files = SourceImages(manifest.image_paths, kept, *stored)
        return _dali_loader(files, dataset, engine, batch_size, levels, failures)
    from ocr.loaders.shards import FetchedImages, ShardLoader

    fetched = FetchedImages(images, kept)
    in_memory = SourceImages(images.names, fetched, *stored)
    return ShardLoader(_dali_loader(in_memory, dataset, engine, batch_size, levels, failures), fetched)


def _dali_loader(
    images: SourceImages,
    dataset: ValidatedOCRDataset,
    engine: Engine,
    batch_size: int,
    levels: bool,
    failures: dict[str, str],
) -> "DaliLoader":
    from dali_pipelines.loader import DaliLoader

    return DaliLoader(
        images,
        dataset.planner.config,
        training=dataset.planner.training,
        batch_size=batch_size,
        device=engine.device,
        skip_failures=engine.skip_failures,
        levels=levels,
        failures=failures,
    )
