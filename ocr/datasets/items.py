"""Samples for code that uses the data set without this project's loaders: a cache, and lists that PyTorch can batch."""

import logging
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch.utils.data._utils.collate import (
    default_collate_fn_map,
)  # the map that torch documents for types of one's own

from dali_pipelines.signature import Signature
from ocr.datasets.image_source import ImageSource

log = logging.getLogger(__name__)


class Polygons(list[Any]):
    """The polygons of one image. PyTorch's default collate makes a list of such lists: their lengths differ."""


class Flags(np.ndarray):
    """The don't-care flags of one image, (P,) bool. PyTorch's default collate makes a list of them: their lengths differ."""


def _as_list(batch: list[Any], *, collate_fn_map: Any = None) -> list[Any]:
    return batch


default_collate_fn_map[Polygons] = _as_list
default_collate_fn_map[Flags] = _as_list


class ItemCache:
    """Keeps finished samples in RAM, their tensors as float16, until the budget is spent.

    Every sample is served from its entry, the first time too, so a sample has the same values in all epochs. An entry is used as
    long as its file is unchanged.

    Args:
        images: files of the samples.
        num_items: number of samples.
        budget: bytes that the tensors may take.
        count: receives whether an access was served from an entry.
    """

    def __init__(self, images: ImageSource, num_items: int, budget: int, count: Callable[[bool], None]) -> None:
        self._images, self._room, self._count = images, budget, count
        self._kept: dict[int, tuple[Signature | None, dict[str, Any]]] = {}
        log.info("Tensor caching enabled - will cache %d transformed samples after first access", num_items)

    def get(self, index: int, make: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
        """Returns a sample as a copy that the caller may change; its tensors are float32.

        Args:
            make: makes the sample if no entry is valid.
        """
        signature = self._images.signature(index)
        kept_signature, packed = self._kept.get(index, (None, None))
        is_hit = packed is not None and kept_signature == signature
        if packed is None or not is_hit:
            packed = {name: value.half() if torch.is_tensor(value) else value for name, value in make(index).items()}
            self._keep(index, signature, packed)
        self._count(is_hit)
        return {name: value.float() if torch.is_tensor(value) else deepcopy(value) for name, value in packed.items()}

    @property
    def num_kept(self) -> int:
        """Number of entries."""
        return len(self._kept)

    def _keep(self, index: int, signature: Signature | None, packed: dict[str, Any]) -> None:
        num_bytes = sum(value.nbytes for value in packed.values() if torch.is_tensor(value))
        if index not in self._kept:
            if num_bytes > self._room:
                return
            self._room -= num_bytes
        self._kept[index] = signature, packed
