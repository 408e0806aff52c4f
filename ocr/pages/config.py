"""Settings of large pages and of pages on their side, the same in `TextDetector`, predict.py and evaluate.py."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field


def _none_as_text(value: Any) -> Any:
    return "none" if value is None else value


def _as_tuple(value: Any) -> Any:
    """Returns None as text, and a single number as a tuple."""
    if isinstance(value, int):
        return (value,)
    return _none_as_text(value)


MIN_TILE = 64
"""Smallest side of a tile, in pixels of the image."""

Tile = Annotated[Literal["none", "auto"] | Annotated[int, Field(ge=MIN_TILE)], BeforeValidator(_none_as_text)]
"""none: each page is seen as a whole. auto: in tiles where its text would be too small. A number: side of a tile in pixels of the
image."""

Rotations = Annotated[
    Literal["none", "auto"] | Annotated[tuple[Literal[0, 90, 180, 270], ...], Field(min_length=1)],
    BeforeValidator(_as_tuple),
]
"""none: pages as they are. auto: (0, 90). Else the clockwise turns in degrees to choose from."""
