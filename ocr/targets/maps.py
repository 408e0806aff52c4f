"""Ground truth of a batch: polygons in, the four maps a DBNet is trained on out."""

import torch

from ocr.polygons import PolygonBatch
from ocr.targets.config import TargetConfig
from ocr.targets.target_maps import TargetMaps


def make_targets(
    polygons_input: PolygonBatch, size: tuple[int, int], config: TargetConfig, device: torch.device | str = "cpu"
) -> TargetMaps:
    """The ground truth of a batch, on the device.

    With d the distance of a pixel's centre to the border of a polygon and D = area (1 - r^2) / perimeter, both in
    input pixels and D of the whole polygon even where part of it is outside of the image, for legible polygons that
    are not too small:

    - shrink_map = 1 inside where d >= D;
    - thresh_map = thresh_min + (thresh_max - thresh_min) (1 - d / D) where d < D, inside and outside, the greatest
      where polygons meet;
    - thresh_mask = 1 inside and where d < D;
    - shrink_mask = 0 inside of ignored and of too small polygons, except where shrink_map is 1.

    The exception departs from DB's code, which masks out every pixel of an ignored region: the core of a legible word
    is text for certain, also where a careless don't-care region covers it. Inside is even-odd: a pixel is inside when
    a ray from its centre crosses the border an odd number of times. A polygon without area leaves no trace.

    Args:
        polygons_input: B images' polygons in the input frame, vertices in either direction; not modified.
        size: (H, W) of the input.
        device: "cpu" takes the compiled path, everything else the one made of torch operations, which never waits
            for the device.
    """
    # Imported here: where maps are made on a GPU nobody needs to load the compiler.
    if torch.device(device).type == "cpu":
        from ocr.targets.numba_maps import make_targets_numba

        return make_targets_numba(polygons_input, size, config)
    from ocr.targets.torch_maps import make_targets_torch

    return make_targets_torch(polygons_input, size, config, device)
