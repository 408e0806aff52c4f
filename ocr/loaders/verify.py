"""Verifies the tensor cache: recomputes entries and compares them with the stored ones."""

from collections.abc import Sequence

import numpy as np
import torch

from dali_pipelines.source import PlannedBatch
from ocr.cache.entry import Tensors
from ocr.cache.store import TensorStore
from ocr.datasets.base import ValidatedOCRDataset
from ocr.errors import CacheError
from ocr.loaders.fresh import FreshBatches

TOLERATED_LEVELS = {"cpu": 0.0, "cuda": 4.0}
"""Largest difference between a stored and a recomputed image, in levels. A GPU may decode a file with another JPEG engine."""


def choose_entries(entries: Sequence[int], count: int, *, seed: int, epoch: int) -> list[int]:
    """Returns `count` random entries, or all if there are fewer, in ascending order."""
    rng = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    chosen: list[int] = rng.choice(entries, min(count, len(entries)), replace=False).tolist()
    return sorted(chosen)


def verify_entry(
    store: TensorStore, entry: int, sample: PlannedBatch, maker: FreshBatches, dataset: ValidatedOCRDataset
) -> None:
    """Recomputes one entry, from a batch of one sample, and compares it with the stored one.

    Raises:
        CacheError: the entry cannot be read, or differs.
    """
    filename = dataset.manifest.filenames[int(sample.indices[0])]
    stored = store.read(range(entry, entry + 1))
    for error in stored.errors.values():
        raise CacheError(f"verify: {filename}: {error}. {_remedy(store)}")
    made = maker.make_now(sample)
    expected = store.layout.pack(made.images, made.targets)
    for name, tensor in store.upload(stored.tensors).items():
        difference = _difference(name, tensor, expected, store, dataset)
        if difference is not None:
            raise CacheError(f"verify: {filename}: {difference}. {_remedy(store)}")


def _difference(
    name: str, kept: torch.Tensor, made: Tensors, store: TensorStore, dataset: ValidatedOCRDataset
) -> str | None:
    """Returns how a cached tensor differs from the recomputed one, or None if the difference is within the tolerance."""
    tolerance = 0.0
    if name == "images":
        is_normalised = store.layout.image_dtype == "float16"
        levels_per_unit = min(dataset.planner.config.std) if is_normalised else 1.0
        tolerance = TOLERATED_LEVELS[kept.device.type] / levels_per_unit
    distance = (kept.float() - made[name].float()).abs()
    wrong = ~(distance <= tolerance)  # NaN is wrong too
    if not wrong.any():
        return None
    return (
        f"{int(wrong.sum())} of {wrong.numel()} values of its cached {name} differ from those recomputed from the file, by up to "
        f"{distance.nan_to_num(torch.inf).max():.4g}"
    )


def _remedy(store: TensorStore) -> str:
    if store.files is None:
        return "Something wrote into the cache's memory; start the run again"
    return f"Delete the folder {store.files.directory}, or find out what wrote into it, and start the run again"
