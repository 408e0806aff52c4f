"""The map of a large page, put together from the maps of its tiles.

The map is put together before post-processing. A text that crosses the border of two tiles is therefore one region of one map: it
is found once and whole, and nothing has to be merged or suppressed afterwards.
"""

from collections.abc import Callable, Sequence

import numpy as np

from dali_pipelines.rendering import ImageArray
from ocr.pages.windows import windows_of
from ocr.postprocess.levels import Levels

Forward = Callable[[Sequence[ImageArray]], Levels]
"""Returns (B, Hm, Wm) map levels of B images, (H, W, 3) RGB uint8 at most as large as the network's input. Threads may call it."""


def num_tiles(size: tuple[int, int], side: int, map_stride: int) -> int:
    """Returns the number of tiles of a page of (H, W) pixels; see `tiled_levels`."""
    height, width = size
    return len(windows_of(height, side, map_stride)) * len(windows_of(width, side, map_stride))


def tiled_levels(page: ImageArray, side: int, map_stride: int, batch_size: int, forward: Forward) -> Levels:
    """Returns the map levels of a page, (ceil(H / map_stride), ceil(W / map_stride)) uint8.

    It takes one byte per map pixel, beside the maps of one batch.

    Args:
        page: (H, W, 3) RGB levels at the scale of the tiles.
        side: side of a tile, that of the network's input.
        map_stride: pixels per map pixel.
        batch_size: largest number of tiles per forward pass.
    """
    height, width = page.shape[:2]
    levels = np.zeros((-(-height // map_stride), -(-width // map_stride)), np.uint8)
    columns = windows_of(width, side, map_stride)
    tiles = [(row, column) for row in windows_of(height, side, map_stride) for column in columns]
    for first in range(0, len(tiles), batch_size):
        batch = tiles[first : first + batch_size]
        images = [np.ascontiguousarray(page[row.start : row.end, column.start : column.end]) for row, column in batch]
        for (row, column), seen in zip(batch, forward(images), strict=True):
            rows, columns_of_map = (slice(own.first // map_stride, -(-own.last // map_stride)) for own in (row, column))
            top, left = row.start // map_stride, column.start // map_stride
            levels[rows, columns_of_map] = seen[
                rows.start - top : rows.stop - top, columns_of_map.start - left : columns_of_map.stop - left
            ]
    return levels
