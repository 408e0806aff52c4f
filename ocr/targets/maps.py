"""Draws the target maps of a batch: the one entry point to the compiled CPU path and the Triton kernel."""

import functools
import logging
import subprocess
from dataclasses import replace

import torch

from ocr.polygons import PolygonBatch
from ocr.targets.config import TargetConfig
from ocr.targets.outline import Outlines, measure_outlines
from ocr.targets.packing import pack_polygons
from ocr.targets.target_maps import TargetMaps

log = logging.getLogger(__name__)


def make_targets(
    polygons_input: PolygonBatch,
    size: tuple[int, int],
    config: TargetConfig,
    device: torch.device | str = "cpu",
    outlines: Outlines | None = None,
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
        device: a CUDA device selects the Triton kernel, which the host does not wait for. For any other device, and on a
            machine where Triton cannot build its launcher, the compiled CPU path draws the maps.
        outlines: result of `measured` for this size, config and device; None: the polygons are measured now.
    """
    # Imported here, so that a GPU does not load the compiler of the CPU path, and no other device needs Triton.
    device = torch.device(device)
    if is_drawn_by_triton(device):
        from ocr.targets.triton_maps import make_targets_triton

        return make_targets_triton(polygons_input, size, config, device, outlines=outlines)
    from ocr.targets.numba_maps import make_targets_numba

    return make_targets_numba(polygons_input, size, config, outlines=outlines).to(device)


def measured(
    polygons_input: PolygonBatch, size: tuple[int, int], config: TargetConfig, device: torch.device | str = "cpu"
) -> Outlines:
    """Returns the measures of polygons whose maps will be drawn on the device; for the Triton kernel they are packed too.

    The thread that plans batches ahead calls this, which relieves the thread that launches kernels.
    """
    outlines = measure_outlines(polygons_input, size, config)
    if not is_drawn_by_triton(torch.device(device)):
        return outlines
    return replace(outlines, packed=pack_polygons(polygons_input, outlines, size[0] // config.map_stride))


def is_drawn_by_triton(device: torch.device) -> bool:
    """Returns whether the Triton kernel draws the maps of this device."""
    return device.type == "cuda" and can_use_triton(device)


@functools.cache
def can_use_triton(device: torch.device) -> bool:
    """Returns whether Triton can start its kernel on this device; warns if its launcher cannot be built. Tries it once."""
    from ocr.targets.triton_maps import make_targets_triton

    try:
        make_targets_triton(PolygonBatch.from_lists([[]]), (32, 32), TargetConfig(), device)
    except (RuntimeError, OSError, AssertionError, subprocess.CalledProcessError) as error:
        remedy = _remedy_for_launcher(error)
        if remedy is None:
            raise
        log.warning(
            "Triton cannot build the launcher of the target maps' kernel on %s (%s). The CPU draws the maps instead, and each step "
            "waits for their copy. %s",
            device,
            " ".join(str(error).split()),
            remedy,
        )
        return False
    return True


def _remedy_for_launcher(error: Exception) -> str | None:
    """Returns what to do if Triton could not compile the module that starts its kernels; None for any other error."""
    text = str(error)
    if "libcuda.so cannot found" in text or "ldconfig" in text:  # PyTorch finds the driver's library without ldconfig
        return "Triton looks for libcuda.so.1 with ldconfig: set TRITON_LIBCUDA_PATH to its folder"
    if isinstance(error, subprocess.CalledProcessError | FileNotFoundError) or "Failed to find C compiler" in text:
        return "Triton needs a C compiler and Python's headers: install gcc and python3-dev, or set CC to a compiler"
    return None
