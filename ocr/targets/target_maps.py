"""The four maps a DBNet is trained on, of a batch."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class TargetMaps:
    """Four (B, Hm, Wm) float32 tensors on one device, in the map frame: Hm = H // map_stride, Wm = W // map_stride."""

    shrink_map: torch.Tensor
    """1 in the core of legible text, 0 elsewhere."""
    shrink_mask: torch.Tensor
    """0 where `shrink_map` says nothing (ignored and too small text), 1 elsewhere."""
    thresh_map: torch.Tensor
    """thresh_max on the border of legible text, falling to thresh_min at the distance D on both sides and beyond."""
    thresh_mask: torch.Tensor
    """1 inside legible text and in the band around it, 0 elsewhere."""

    def blanked(self, is_padding: torch.Tensor) -> "TargetMaps":
        """The same maps with both masks 0, so without weight in the loss, for the images flagged in (B,) bool."""
        is_real = (~is_padding).to(self.shrink_mask, non_blocking=True)[:, None, None]
        return TargetMaps(self.shrink_map, self.shrink_mask * is_real, self.thresh_map, self.thresh_mask * is_real)

    def as_float32(self) -> "TargetMaps":
        """The same maps, from the smaller types that a cache keeps them in."""
        return TargetMaps(
            *(maps.float() for maps in (self.shrink_map, self.shrink_mask, self.thresh_map, self.thresh_mask))
        )
