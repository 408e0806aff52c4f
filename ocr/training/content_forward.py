"""The forward pass over the part of each input that holds an image, without most of the black padding.

Evaluation pads each image to a square, of which a receipt fills half. On a CPU the forward pass of a receipt then takes half of the
time. A GPU takes the whole batch at once, in one shape for all batches. `forward_inputs` decides which.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ocr.models.db_head import DBMaps, ProbMap

CONTENT_STEP = 64
"""Sides are rounded up to a multiple of this many pixels, itself a multiple of the network's stride. So there are few shapes, and
kernels are prepared once for each."""
_OUTSIDE = {"prob_logits": -100.0, "thresh_map": 1.0, "prob_map": 0.0}
"""Values of the maps outside the image: no text, and no loss."""

Maps = TypeVar("Maps", DBMaps, ProbMap)


def forward_inputs(
    forward: Callable[[Tensor], Maps], images: Tensor, sizes: Sequence[tuple[int, int]] | npt.NDArray[np.int64]
) -> Maps:
    """Returns the maps of a batch: on a CPU without most of the black, on a GPU of the whole inputs.

    The arguments are those of `forward_content`.
    """
    return forward_content(forward, images, sizes) if images.device.type == "cpu" else forward(images)


def forward_content(
    forward: Callable[[Tensor], Maps], images: Tensor, sizes: Sequence[tuple[int, int]] | npt.NDArray[np.int64]
) -> Maps:
    """Returns the maps of a batch. Each image is seen alone or with images of its shape, so its maps depend on no other image.

    Args:
        forward: the network.
        images: (B, 3, H, W), each image at the top left, H and W multiples of 32.
        sizes: (B, 2) (H, W) of each image in pixels.
    """
    limit = np.array([images.shape[2], images.shape[3]])
    shapes = np.minimum(-(-np.asarray(sizes) // CONTENT_STEP) * CONTENT_STEP, limit)
    if (shapes == limit).all():
        return forward(images)
    distinct, group_of = np.unique(shapes, axis=0, return_inverse=True)
    groups = [np.flatnonzero(group_of.reshape(-1) == group) for group in range(len(distinct))]
    parts = [
        forward(images[members, :, :height, :width])
        for members, (height, width) in zip(groups, distinct.tolist(), strict=True)
    ]
    first = parts[0]
    stride = int(distinct[0][0]) // first[0].shape[1]
    shape = (len(images), images.shape[2] // stride, images.shape[3] // stride)
    whole = type(first)(*(first[0].new_full(shape, _OUTSIDE[name]) for name in first._fields))
    for members, maps in zip(groups, parts, strict=True):
        for part, target in zip(maps, whole, strict=True):
            target[members, : part.shape[1], : part.shape[2]] = part
    return whole
