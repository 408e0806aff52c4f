"""The four target maps of a batch."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class TargetMaps:
    """Four (B, Hm, Wm) tensors on one device, in the map frame: Hm = H // map_stride, Wm = W // map_stride.

    They are float32, except in batches from the tensor cache, which have its smaller types; `as_float32` converts them.
    """

    shrink_map: torch.Tensor
    """1 in the core of legible text, 0 elsewhere."""
    shrink_mask: torch.Tensor
    """Weight of `shrink_map` in the loss: 0 in don't-care regions and text that is too small, except in cores; whole numbers from 1
    to `TargetConfig.max_text_weight` where `thresh_mask` is 1; 1 elsewhere."""
    thresh_map: torch.Tensor
    """thresh_max on the border of legible text, falling to thresh_min at distance D on both sides; thresh_min elsewhere."""
    thresh_mask: torch.Tensor
    """1 inside legible text and in the band around it, 0 elsewhere."""

    def blanked(self, is_padding: torch.Tensor) -> "TargetMaps":
        """Returns the maps with both masks set to 0 for the images flagged in (B,) bool, which then have no weight in the loss."""
        is_real = (~is_padding).to(self.shrink_mask, non_blocking=True)[:, None, None]
        return TargetMaps(self.shrink_map, self.shrink_mask * is_real, self.thresh_map, self.thresh_mask * is_real)

    def to(self, device: torch.device) -> "TargetMaps":
        """Returns the maps on the device; those that are there already are not copied."""
        return TargetMaps(
            *(maps.to(device) for maps in (self.shrink_map, self.shrink_mask, self.thresh_map, self.thresh_mask))
        )

    def as_float32(self) -> "TargetMaps":
        """Returns the maps as float32."""
        return TargetMaps(
            *(maps.float() for maps in (self.shrink_map, self.shrink_mask, self.thresh_map, self.thresh_mask))
        )
