"""Encodes an upright picture as a JPEG file: EXIF orientation, sampling, quality."""

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from ocr.synthetic.config import SyntheticConfig

_ORIENTATION_TAG = 0x0112
_STORED_FROM_ORIGINAL = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,  # a reader rotates it back, by 90 degrees clockwise
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
SAMPLINGS = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}
"""Pillow's code of each chroma sampling."""


@dataclass(frozen=True)
class Encoding:
    """Properties of a JPEG file."""

    orientation: int
    """EXIF orientation, 1 to 8."""
    has_exif: bool
    """Whether the file states its orientation; a file that does not is upright."""
    sampling: str
    """Key of SAMPLINGS."""
    quality: int
    is_gray: bool
    is_progressive: bool


def choose_encoding(rng: np.random.Generator, config: SyntheticConfig) -> Encoding:
    """Returns random properties with the shares of the config."""
    is_turned = rng.random() < config.exif_share
    return Encoding(
        orientation=int(rng.integers(2, 9)) if is_turned else 1,
        has_exif=is_turned or bool(rng.random() < 0.3),
        sampling=list(SAMPLINGS)[rng.choice(3, p=[0.2, 0.2, 0.6])],
        quality=int(rng.integers(config.min_quality, config.max_quality + 1)),
        is_gray=bool(rng.random() < config.gray_share),
        is_progressive=bool(rng.random() < config.progressive_share),
    )


def encode(pixels_original: npt.NDArray[np.uint8], encoding: Encoding) -> bytes:
    """Returns the JPEG file of an upright RGB picture (H, W, 3)."""
    image = Image.fromarray(pixels_original)
    if encoding.orientation in _STORED_FROM_ORIGINAL:
        image = image.transpose(_STORED_FROM_ORIGINAL[encoding.orientation])
    if encoding.is_gray:
        image = image.convert("L")
    exif = Image.Exif()
    if encoding.has_exif:
        exif[_ORIENTATION_TAG] = encoding.orientation
    file = io.BytesIO()
    image.save(
        file,
        "JPEG",
        quality=encoding.quality,
        subsampling=SAMPLINGS[encoding.sampling],
        progressive=encoding.is_progressive,
        exif=exif,
    )
    return file.getvalue()
