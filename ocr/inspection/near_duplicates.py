"""Finds nearly equal images in two splits by a perceptual hash: the signs of the brightness differences in a tiny gray copy."""

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from ocr.datasets.data_checks import evenly
from ocr.datasets.manifest import Manifest

SIDE = 16
"""Pixels along each side of the tiny copy whose neighbours are compared."""
NUM_BITS = 2 * SIDE * SIDE
"""Bits of a hash."""
MAX_DISTANCE = 0.35
"""Hashes with at most this distance are those of nearly equal images. On receipts, street scenes and drawn pages, copies of 3/4 of
the size at JPEG quality 60 were at most 0.30 away, copies without a border of 1 % at most 0.38, other scenes at least 0.49."""
_LEAST_STEP = 2
"""Brightness levels by which two neighbours differ before the sign counts: paper is not quite white."""


@dataclass(frozen=True)
class NearDuplicate:
    """Two nearly equal images: a copy, or a form of the same layout with other entries, which are too small for the hash."""

    train: int
    """Position in the training manifest."""
    val: int
    """Position in the validation manifest."""
    distance: float
    """Bits that differ, as a share of those set in either hash."""


def near_duplicates(train: Manifest, val: Manifest, num_compared: int) -> list[NearDuplicate]:
    """Returns the nearest training image of each validation image that has a near duplicate, nearest first.

    Args:
        num_compared: images taken of each split, evenly over the split. JPEGs are decoded at 1/8 of their size for this.
    """
    positions = [evenly(len(manifest), num_compared) for manifest in (train, val)]
    ours, theirs = (_hashes(manifest, chosen) for manifest, chosen in zip((train, val), positions, strict=True))
    of_train, kept = _table(ours)
    found = []
    for place, code in enumerate(theirs):
        if code is None or not len(kept):
            continue
        distances = _num_bits(of_train ^ code) / _num_bits(of_train | code)
        nearest = int(distances.argmin())
        if distances[nearest] <= MAX_DISTANCE:
            ours_at = int(positions[0][kept[nearest]])
            found.append(NearDuplicate(ours_at, int(positions[1][place]), float(distances[nearest])))
    return sorted(found, key=lambda pair: pair.distance)


def image_hash(content: bytes) -> npt.NDArray[np.uint8] | None:
    """Returns the hash of an encoded image, (NUM_BITS / 8,) bytes; None for one that cannot be read or is plain.

    Two bits stand for each pair of neighbours: brighter and darker, so that equal neighbours differ from both.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.draft("L", (4 * SIDE, 4 * SIDE))
            gray = image.convert("L").resize((SIDE + 1, SIDE), Image.Resampling.BOX)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    steps = np.diff(np.asarray(gray).astype(np.int16), axis=1)
    bits = np.concatenate([steps >= _LEAST_STEP, steps <= -_LEAST_STEP])
    # A plain picture resembles every other one.
    return np.packbits(bits) if bits.sum() >= SIDE * SIDE // 4 else None


def _hashes(manifest: Manifest, chosen: npt.NDArray[np.int64]) -> list[npt.NDArray[np.uint8] | None]:
    def read(index: int) -> npt.NDArray[np.uint8] | None:
        try:
            return image_hash(manifest.images.read(index))
        except OSError:
            return None

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(read, chosen.tolist()))


def _num_bits(hashes: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    return np.bitwise_count(hashes.view(np.uint64)).sum(axis=1, dtype=np.int64)


def _table(
    hashes: list[npt.NDArray[np.uint8] | None],
) -> tuple[npt.NDArray[np.uint8], list[int]]:
    """Returns the hashes that there are, (K, bytes), and their K places in the list."""
    kept = [place for place, code in enumerate(hashes) if code is not None]
    rows = [code for code in hashes if code is not None]
    return (np.stack(rows) if rows else np.zeros((0, NUM_BITS // 8), np.uint8)), kept
