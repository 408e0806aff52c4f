"""Where the tiles of a page lie: overlapping windows along one axis.

side 12, page 26    |--own--|...|                  a window sees more than it owns:
                        |...|--own--|...|          the maps are joined in the middle of each overlap,
                                |...|--own--|      where both tiles see the text on both sides
"""

from typing import NamedTuple

NETWORK_STRIDE = 32
"""Windows start on multiples of the network's largest stride, so that its features lie where those of the whole page would."""
OVERLAP = 0.2
"""Share of a tile's side that two neighbours see both, at least."""


class Window(NamedTuple):
    """Part of one axis of a page, in pixels of the page at the scale of the tiles."""

    start: int
    """First pixel that the tile sees, a multiple of `NETWORK_STRIDE`."""
    end: int
    first: int
    """First pixel that the page's map takes from this tile."""
    last: int


def windows_of(length: int, side: int, map_stride: int) -> list[Window]:
    """Returns the windows along an axis. They own each pixel once, in order.

    Args:
        length: pixels of the page along the axis.
        side: side of a tile, a multiple of `NETWORK_STRIDE`.
        map_stride: pixels per map pixel; windows own whole map pixels.
    """
    if length <= side:
        return [Window(0, length, 0, length)]
    overlap = min(max(_rounded_up(OVERLAP * side), NETWORK_STRIDE), side - NETWORK_STRIDE)
    last_start = _rounded_up(length - side)
    num_steps = -(-last_start // (side - overlap))
    step = _rounded_up(last_start / num_steps)
    starts = [min(index * step, last_start) for index in range(num_steps + 1)]
    ends = [min(start + side, length) for start in starts]
    middles = [(start + end) // 2 // map_stride * map_stride for start, end in zip(starts[1:], ends[:-1], strict=True)]
    return [Window(*window) for window in zip(starts, ends, [0, *middles], [*middles, length], strict=True)]


def _rounded_up(length: float) -> int:
    return -int(-length // NETWORK_STRIDE) * NETWORK_STRIDE
