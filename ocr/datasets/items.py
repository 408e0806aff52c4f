"""Samples for code that uses the data set without this project's loaders: a cache, and lists that PyTorch can batch."""

import hashlib
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data._utils.collate import (
    default_collate_fn_map,
)  # the map that torch documents for types of one's own

from ocr.datasets.image_source import ImageSource
from ocr.datasets.kept_images import shared_bytes

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
    """Keeps the tensors of finished samples in RAM as float16, until the budget is spent.

    Every sample is served from its entry, the first time too, so a sample has the same values in all epochs. An entry is used as
    long as its file is unchanged. Processes that are forked later share the entries: the workers of a DataLoader fill one cache.

    Args:
        images: files of the samples.
        shapes: shape of each tensor of a sample, by name.
        num_items: number of samples.
        budget: bytes that the tensors may take.
        count: receives whether an access was served from an entry.
    """

    def __init__(
        self,
        images: ImageSource,
        shapes: Mapping[str, tuple[int, ...]],
        num_items: int,
        budget: int,
        count: Callable[[bool], None],
    ) -> None:
        self._images, self._shapes, self._count = images, dict(shapes), count
        self._sizes = [math.prod(shape) for shape in self._shapes.values()]
        num_places = min(num_items, max(budget, 0) // (2 * sum(self._sizes)))
        block = shared_bytes(2 * num_places * sum(self._sizes)).view(np.float16)
        self._entries = torch.from_numpy(block.reshape(num_places, sum(self._sizes)))
        self._states = shared_bytes(8 * num_places).view(np.uint64)
        """Digest of the file's signature, by entry; 0: the entry is empty."""
        log.info("Tensor caching enabled - will cache %d transformed samples after first access", num_places)
        if num_places < num_items:
            num_left = num_items - num_places
            log.info("%d of %d do not fit into memory; they are made again in every epoch", num_left, num_items)

    @property
    def num_kept(self) -> int:
        """Number of entries."""
        return int(np.count_nonzero(self._states))

    def get(self, index: int, make: Callable[[int], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Returns the float32 tensors of a sample, which the caller may change.

        Args:
            make: makes the tensors if no entry is valid.
        """
        state = self._state(index)
        is_hit = self._is_valid(index, state)
        entry = self._entries[index] if is_hit else self._made(index, state, make)
        self._count(is_hit)
        parts = entry.float().split(self._sizes)
        return {name: part.view(shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)}

    def fill(self, index: int, make: Callable[[int], Mapping[str, Tensor]]) -> None:
        """Makes a sample's entry if it has a place and no valid entry. This does not count as an access."""
        state = self._state(index)
        if index < len(self._states) and not self._is_valid(index, state):
            self._made(index, state, make)

    def _is_valid(self, index: int, state: int) -> bool:
        return index < len(self._states) and int(self._states[index]) == state

    def _made(self, index: int, state: int, make: Callable[[int], Mapping[str, Tensor]]) -> Tensor:
        """Returns a sample's tensors as one float16 row, and keeps the row if it has a place."""
        tensors = make(index)
        row = torch.cat([tensors[name].reshape(-1) for name in self._shapes]).half()
        if index < len(self._states):
            self._states[index] = 0  # another process must not read a row that is half written
            self._entries[index] = row
            self._states[index] = state
        return row

    def _state(self, index: int) -> int:
        """Returns a number above 0 that changes with the sample's file."""
        digest = hashlib.blake2b(repr(self._images.signature(index)).encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") or 1
