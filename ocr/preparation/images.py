"""Copies images, or turns them upright and encodes them again."""

import io
import os
from pathlib import Path

import simplejpeg
from PIL import Image

from dali_pipelines.turbojpeg import decode_upright
from ocr.atomic_write import write_atomically
from ocr.datasets.image_header import ImageProblem, read_header
from ocr.datasets.manifest import Manifest
from ocr.preparation.outcomes import Action, Outcome

JPEG_QUALITY = 98
"""Quality of JPEGs that were turned. Pixels differ by 0.04 to 0.53 of 255 on average (at 95: 0.11 to 1.12), and files are 0.9 to
2.6 times as large. The quantisation tables of the original file would keep its size, but pixels would differ by up to 2.1 where
the grid of blocks moves."""
_TURNED_SAMPLING = {"422": "440", "440": "422", "411": "444"}
"""Chroma sampling once the axes are swapped. There is no 4:4:1."""


def known_outcome(manifest: Manifest, index: int, image_dir: Path, canonical: bool) -> Outcome | None:
    """Returns the outcome "kept" of an image that need not be written. None: it has to be written.

    An image is kept if it has the modification time of its source and, where it is a copy, also its size.
    """
    filename = manifest.filenames[index]
    is_copy = not canonical or manifest.orientations[index] == 1
    try:
        source, written = os.stat(manifest.image_paths[index]), os.stat(image_dir / filename)
    except OSError:
        return None
    is_current = source.st_mtime_ns == written.st_mtime_ns and written.st_size > 0
    if is_current and (not is_copy or source.st_size == written.st_size):
        return Outcome("kept")
    return None


def write_image(source: Path, destination: Path, orientation: int) -> Outcome:
    """Copies an image byte for byte, or turns it upright. The result gets the source's modification time.

    Args:
        source: image file.
        destination: file to write.
        orientation: EXIF orientation 1 to 8 to undo; 1 copies the file.

    Raises:
        OSError: the destination cannot be written. A source that cannot be read is an outcome, not an error.
    """
    try:
        mtime_ns = source.stat().st_mtime_ns
        encoded = source.read_bytes()
        action: Action = "copied"
        if orientation != 1:
            encoded, action = turn_upright(encoded, orientation)
    except (OSError, ValueError, ImageProblem) as error:
        return Outcome("failed", reason=f"{source}: cannot be read: {error}")
    write_atomically(destination, encoded, mtime_ns)
    return Outcome(action, len(encoded))


def turn_upright(encoded: bytes, orientation: int) -> tuple[bytes, Action]:
    """Returns the upright image as a file of the same format without EXIF, and whether it was turned or encoded again.

    A PNG keeps its RGB or grey levels exactly; a JPEG is encoded again with its own chroma sampling. Colour profiles, which no
    loader here applies, are dropped. Images of other modes and formats come here as their converted copies.

    Raises:
        ValueError, OSError, ImageProblem: the bytes are no image, or a damaged one.
    """
    header = read_header(io.BytesIO(encoded))
    pixels = decode_upright(encoded, orientation)
    is_gray = header.color == "gray"
    if header.format == "PNG":
        file = io.BytesIO()
        Image.fromarray(pixels[..., 0] if is_gray else pixels).save(file, "PNG")
        return file.getvalue(), "turned"
    if is_gray:
        return simplejpeg.encode_jpeg(pixels[..., :1].copy(), JPEG_QUALITY, "GRAY", "GRAY", fastdct=False), "encoded"
    sampling = header.sampling.replace(":", "")
    if orientation >= 5:
        sampling = _TURNED_SAMPLING.get(sampling, sampling)
    if sampling not in ("444", "422", "440", "420", "411"):
        sampling = "444"
    return simplejpeg.encode_jpeg(pixels, JPEG_QUALITY, "RGB", sampling, fastdct=False), "encoded"
