"""The layout of one cached sample in memory, and its conversion from and to a batch."""

from dataclasses import dataclass
from math import prod
from typing import Literal

import torch

from ocr.datasets.base import ValidatedOCRDataset
from ocr.targets.target_maps import TargetMaps

Tensors = dict[str, torch.Tensor]
"""The tensors of one entry, or of a batch of entries, by the names in `EntryLayout.shapes`."""


@dataclass(frozen=True)
class EntryLayout:
    """Shapes and types of one entry."""

    input_size: int
    """Side of the square input in pixels."""
    map_size: int | None
    """Side of the target maps in map pixels; None: entries without targets."""
    image_dtype: Literal["float16", "uint8"]
    """float16: normalised; uint8: RGB levels."""

    @property
    def shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape and dtype of each tensor.

        `byte_maps` are `shrink_map`, `shrink_mask` and `thresh_mask`: 0 or 1, or the whole weights of `shrink_mask` up to 255.
        `thresh_map` is float16 (error below 2.5e-4).
        """
        image_dtype = torch.float16 if self.image_dtype == "float16" else torch.uint8
        tensors: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            "images": ((3, self.input_size, self.input_size), image_dtype)
        }
        if self.map_size is not None:
            tensors["byte_maps"] = ((3, self.map_size, self.map_size), torch.uint8)
            tensors["thresh_map"] = ((self.map_size, self.map_size), torch.float16)
        return tensors

    @property
    def num_bytes(self) -> int:
        """Bytes of one entry."""
        return sum(prod(shape) * dtype.itemsize for shape, dtype in self.shapes.values())

    def allocate(self, num_entries: int, device: torch.device | str, pin_memory: bool = False) -> Tensors:
        """Returns uninitialised memory for `num_entries` entries: one tensor (N, ...) for each name."""
        return {
            name: torch.empty((num_entries, *shape), dtype=dtype, device=device, pin_memory=pin_memory)
            for name, (shape, dtype) in self.shapes.items()
        }

    def carve(self, memory: torch.Tensor, num_entries: int) -> Tensors:
        """Returns one tensor (N, ...) for each name, all of them views of `memory`, (num_entries * num_bytes,) uint8."""
        # The largest elements come first, so that each tensor starts at a multiple of its element's size.
        by_element_size = sorted(self.shapes.items(), key=lambda item: -item[1][1].itemsize)
        sizes = [num_entries * prod(shape) * dtype.itemsize for _, (shape, dtype) in by_element_size]
        parts = {
            name: part.view(dtype).view(num_entries, *shape)
            for part, (name, (shape, dtype)) in zip(memory.split(sizes), by_element_size, strict=True)
        }
        return {name: parts[name] for name in self.shapes}

    def pack(self, images: torch.Tensor, targets: TargetMaps | None) -> Tensors:
        """Returns a batch in the types and the memory format of the entries.

        Args:
            images: (B, 3, S, S), normalised for float16 entries, levels for uint8 entries.
            targets: maps of the same B samples; None for entries without targets.
        """
        packed = {"images": images.to(self.shapes["images"][1], memory_format=torch.contiguous_format)}
        if targets is not None:
            byte_maps = torch.stack([targets.shrink_map, targets.shrink_mask, targets.thresh_mask], dim=1)
            packed |= {"byte_maps": byte_maps.to(torch.uint8), "thresh_map": targets.thresh_map.to(torch.float16)}
        return packed

    def unpack_targets(self, batch: Tensors) -> TargetMaps | None:
        """Returns the target maps of a batch as views, in the types of the entries."""
        if self.map_size is None:
            return None
        shrink_map, shrink_mask, thresh_mask = batch["byte_maps"].unbind(dim=1)
        return TargetMaps(shrink_map, shrink_mask, batch["thresh_map"], thresh_mask)


def entry_layout(dataset: ValidatedOCRDataset, with_targets: bool) -> EntryLayout:
    """Returns the layout of a split's entries."""
    size = dataset.planner.input_size
    map_size = size // dataset.targets.map_stride if with_targets else None
    return EntryLayout(size, map_size, dataset.config.cache_config.dtype)
