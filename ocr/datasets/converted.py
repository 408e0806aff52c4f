"""Copies of images that decoders read differently, as ordinary 8-bit PNGs, which all of them read alike.

`ImageHeader.needs_conversion` says which images these are. Each is converted once. Its copy lies in a cache folder under the path
of the image, `CACHE/data/scans/a.tif.png`, and is valid as long as size and modification time of the image stay the same. All
loaders and commands read the copy in place of the image. The copy keeps the stored frame and the EXIF orientation.
"""

import hashlib
import io
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dali_pipelines.config import num_cores
from ocr.atomic_write import atomic_file
from ocr.datasets.image_checks import decoding_slot
from ocr.datasets.image_header import ImageProblem, read_header
from ocr.datasets.image_levels import decode_levels
from ocr.datasets.manifest import Manifest
from ocr.datasets.names import Names
from ocr.environment import cache_folder
from ocr.errors import InputError, StorageError
from ocr.progress import followed

log = logging.getLogger(__name__)

_CONVERSION = 1
"""Number of this conversion. Raise it when the pixels of the copies change."""
_KEY = "dali-dbnet"
"""Keyword of the text in a copy that says what it was made from."""
_NUM_HEAD_BYTES = 200
"""Bytes at the start of a copy that hold this text."""
_ORIENTATION = 0x0112
_LONGEST_NAME = 200
"""Bytes of a name; longer ones are hashed, so that the name of a temporary file fits too."""


def default_folder() -> Path:
    """Returns the folder of the copies in the user's cache folder."""
    return cache_folder() / "converted"


def with_converted_images(manifest: Manifest, folder: Path) -> Manifest:
    """Returns the manifest with the paths of copies in place of the images that need one. Missing copies are written.

    Args:
        folder: cache folder of the copies.

    Raises:
        InputError: an image has become damaged or has vanished since it was checked, or was never decoded (check_pixels=false).
        StorageError: a copy cannot be written.
    """
    due = [] if manifest.is_converted is None else np.flatnonzero(manifest.is_converted).tolist()
    if not due:
        return manifest
    sources = [Path(manifest.image_paths[index]) for index in due]
    targets = [copy_path(folder, source) for source in sources]
    with ThreadPoolExecutor(min(num_cores(), 8)) as pool:
        written = pool.map(_convert, sources, targets)
        num_bytes = list(followed(written, "Converting images", len(due)))
    if any(num_bytes):
        num_new = sum(size > 0 for size in num_bytes)
        log.info("converted %d images to 8-bit PNG in %s (%.1f MB)", num_new, folder, sum(num_bytes) / 1e6)
    copies = dict(zip(due, map(str, targets), strict=True))
    paths = Names.of(copies.get(index, path) for index, path in enumerate(manifest.image_paths))
    return replace(manifest, image_paths=paths)


def copy_path(folder: Path, source: Path) -> Path:
    """Returns the path of the copy of an image, whose own path is absolute."""
    parts = [_short(part) for part in (*source.parts[1:-1], f"{source.name}.png")]
    return folder.joinpath(*parts)


def _short(name: str) -> str:
    encoded = os.fsencode(name)
    return name if len(encoded) <= _LONGEST_NAME else f"{hashlib.sha256(encoded).hexdigest()}{Path(name).suffix[-10:]}"


def _convert(source: Path, target: Path) -> int:
    """Writes the copy of an image unless it is valid. Returns the bytes written."""
    try:
        status = source.stat()
        text = f"{_CONVERSION} {status.st_size} {status.st_mtime_ns}"
        if _is_made_from(target, text):
            return 0
        encoded = _as_plain_png(source.read_bytes(), text)
    except (OSError, ImageProblem) as error:
        raise InputError(
            f"{source}: cannot be converted to 8 bits: {error}; restore the file, or leave it out (check_pixels=true leaves out "
            "damaged files)"
        ) from error
    try:
        with atomic_file(target, status.st_mtime_ns, shared=True) as file:
            file.write(encoded)
    except OSError as error:
        raise StorageError(
            f"{target}: the converted copy of {source} cannot be written: {error.strerror or error}; make room there, or set "
            "converted_path of the data set (or XDG_CACHE_HOME) to a folder that can be written"
        ) from error
    return len(encoded)


def _is_made_from(target: Path, text: str) -> bool:
    try:
        with target.open("rb") as file:
            return f"{_KEY}\0{text}".encode() in file.read(_NUM_HEAD_BYTES)
    except OSError:
        return False


def _as_plain_png(data: bytes, text: str) -> bytes:
    """Returns the image as a PNG of 8 bits without transparency and profiles, in the same stored frame.

    Raises:
        ImageProblem: the file is no image, or a damaged one.
    """
    header = read_header(io.BytesIO(data))
    with decoding_slot(header):
        levels = decode_levels(data, header).levels
        info = PngInfo()
        info.add_text(_KEY, text)
        exif = Image.Exif()
        if header.orientation != 1:
            exif[_ORIENTATION] = header.orientation
        file = io.BytesIO()
        # Level 1: a page takes a quarter of the time of the default and 15 % more room.
        Image.fromarray(np.ascontiguousarray(levels)).save(file, "PNG", compress_level=1, pnginfo=info, exif=exif)
    return file.getvalue()
