"""The probability maps of the worst images, kept on the disk while an evaluation goes on."""

import io
from bisect import insort
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

import numpy as np
from PIL import Image

from ocr.atomic_write import explained_write
from ocr.file_names import path_inside, with_ending
from ocr.metrics.icdar import MatchCounts
from ocr.postprocess.levels import FIRST_TEXT_LEVEL, Levels
from ocr.report.reviewed import rank

BELOW_COLOUR, TEXT_COLOUR = (230, 159, 0), (0, 130, 140)
"""Map pixels below and above bin_thresh."""
_OPAQUE = 190
"""Opacity of a map pixel of probability 1, of 255."""


class WorstMaps:
    """Keeps the maps of the images that are the worst so far, one PNG each. Any thread may offer an image.

    An evaluation that goes on after an interruption tells it of the images done, whose maps are still on the disk.

    Args:
        folder: for the maps; a folder of its own.
        names: file names of all images, by their positions in the manifest.
        number: number of images whose maps are kept.
    """

    def __init__(self, folder: Path, names: Sequence[str], number: int) -> None:
        self._folder, self._names, self._number = folder, names, number
        self._lock = Lock()
        self._ranks: list[tuple[float, int, int]] = []
        """Ranks of the images kept, the worst first."""

    def note(self, index: int, counts: MatchCounts) -> None:
        """Takes an image of an earlier run into account, whose map is on the disk if it is among the worst."""
        with self._lock:
            self._insert(rank(index, counts))

    def offer(self, index: int, counts: MatchCounts, levels: Levels) -> None:
        """Writes the map of an image if it is among the worst so far, in place of the best one of them.

        Args:
            counts: at the looser IoU threshold.
            levels: (Hm, Wm) map of the image, without padding.

        Raises:
            StorageError: the map cannot be written.
        """
        with self._lock:
            if self._insert(rank(index, counts)):
                path = self.path_of(index)
                with explained_write(path, "give the same command again, which continues"):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(as_png(levels))

    def path_of(self, index: int) -> Path:
        """Returns where the map of an image is, if it is kept."""
        return path_inside(self._folder, with_ending(self._names[index], ".png"))

    def drop_others(self) -> None:
        """Removes the maps of an earlier evaluation in the same folder."""
        kept = {self.path_of(index) for _, _, index in self._ranks}
        for path in self._folder.rglob("*.png"):
            if path not in kept:
                path.unlink()

    def _insert(self, key: tuple[float, int, int]) -> bool:
        """Returns whether the image is among the worst, and forgets the one that no longer is."""
        insort(self._ranks, key)
        if len(self._ranks) <= self._number:
            return True
        dropped = self._ranks.pop()
        if dropped != key:
            self.path_of(dropped[2]).unlink(missing_ok=True)
        return dropped != key


def as_png(levels: Levels) -> bytes:
    """Returns the map as a PNG file that can lie over the image: the more probable, the less transparent.

    Its bytes are the levels: 0 to 127 up to bin_thresh, 128 to 255 above it.
    """
    picture = Image.fromarray(np.ascontiguousarray(levels)).copy()
    colours = [BELOW_COLOUR] * FIRST_TEXT_LEVEL + [TEXT_COLOUR] * (256 - FIRST_TEXT_LEVEL)
    picture.putpalette([part for colour in colours for part in colour])
    opacity = bytes(level * _OPAQUE // 255 for level in range(256))
    stream = io.BytesIO()
    picture.save(stream, "PNG", transparency=opacity, compress_level=4)
    return stream.getvalue()
