"""Settings of large pages and of pages on their side, the same in `TextDetector`, predict.py and evaluate.py."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

MIN_TILE = 64
"""Smallest side of a tile, in pixels of the image."""
TURNS = (0, 90, 180, 270)
"""Clockwise turns in degrees."""


def _checked_tile(value: Any) -> Any:
    """Returns the value, None as "none". Raises ValueError, with one message for all that is allowed."""
    value = "none" if value is None else value
    is_side = isinstance(value, int) and not isinstance(value, bool) and value >= MIN_TILE
    if is_side or value in ("none", "auto"):
        return value
    raise ValueError(f"expected none, auto, or the side of a tile in pixels of the image, at least {MIN_TILE}")


def _checked_rotations(value: Any) -> Any:
    """Returns the value, None as "none" and a number as a tuple. Raises ValueError, with one message for all that is allowed."""
    if value is None or value in ("none", "auto"):
        return value or "none"
    turns = (value,) if isinstance(value, int) else value
    if isinstance(turns, list | tuple) and turns and all(turn in TURNS for turn in turns):
        return tuple(turns)
    raise ValueError(f"expected none, auto, or a list of turns among {', '.join(map(str, TURNS))}")


Tile = Annotated[Literal["none", "auto"] | int, BeforeValidator(_checked_tile)]
"""none: each page is seen as a whole. auto: in tiles where its text would be too small. A number: side of a tile in pixels of the
image."""
Rotations = Annotated[Literal["none", "auto"] | tuple[int, ...], BeforeValidator(_checked_rotations)]
"""none: pages as they are. auto: (0, 90). Else the clockwise turns in degrees to choose from."""
