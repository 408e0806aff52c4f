"""Draws the target maps of a batch: the one entry point to the compiled CPU path and the Triton kernel."""

import torch

from ocr.polygons import PolygonBatch
from ocr.targets.config import TargetConfig
from ocr.targets.target_maps import TargetMaps


def make_targets(
    polygons_input: PolygonBatch, size: tuple[int, int], config: TargetConfig, device: torch.device | str = "cpu"
) -> TargetMaps:
    """Returns the target maps of a batch, on the device.

    Let d be the distance from a pixel's centre to the border of a polygon, and D = area (1 - r^2) / perimeter, both in input
    pixels. D is that of the whole polygon, even if part of it is outside the image. For legible polygons that are not too small:

    - shrink_map = 1 inside where d >= D;
    - thresh_map = thresh_min + (thresh_max - thresh_min) (1 - d / D) where d < D, inside and outside; the maximum
      where bands overlap;
    - thresh_mask = 1 inside and where d < D;
    - shrink_mask = 0 inside ignored polygons and polygons that are too small, except where shrink_map is 1.

    The exception departs from DB's code, which masks out every pixel of an ignored region: the core of a legible word is certainly
    text, even if a carelessly drawn don't-care region covers it. Inside is even-odd: a pixel is inside if a ray from its centre
    crosses the border an odd number of times. A polygon without area is not drawn.

    Args:
        polygons_input: polygons of B images in the input frame, vertices in either direction; not modified.
        size: (H, W) of the input.
        device: a CUDA device selects the Triton kernel, which the host does not wait for. For any other device the compiled
            CPU path draws the maps.
    """
    # Imported here, so that a GPU does not load the compiler of the CPU path, and no other device needs Triton.
    device = torch.device(device)
    if device.type == "cuda":
        from ocr.targets.triton_maps import make_targets_triton

        return make_targets_triton(polygons_input, size, config, device)
    from ocr.targets.numba_maps import make_targets_numba

    return make_targets_numba(polygons_input, size, config).to(device)
