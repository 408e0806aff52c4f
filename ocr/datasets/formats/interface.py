"""One annotation format: its name, how to recognise it, and how to read it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Literal

from ocr.datasets.formats.annotated import AnnotatedImage
from ocr.datasets.formats.image_folder import ImageFolder
from ocr.datasets.formats.look import Look


class Confidence(IntEnum):
    """Certainty that a path holds annotations in a format."""

    NONE = 0
    POSSIBLE = 1
    LIKELY = 2
    CERTAIN = 3


@dataclass(frozen=True)
class Fit:
    """The certainty that a path holds annotations in a format, and the reason."""

    confidence: Confidence
    reason: str = ""
    """The evidence, in a few words: `an object "images" by file name`."""


NO_FIT = Fit(Confidence.NONE)


@dataclass(frozen=True)
class AnnotationFormat:
    """One annotation format."""

    name: str
    """Value of data= and annotation_format=."""
    title: str
    """Name for people."""
    place: Literal["file", "folder", "either"]
    """Whether the annotation path is a file or a folder."""
    examine: Callable[[Look], Fit]
    """Judges how well a path fits, from a look at its beginning."""
    read: Callable[[Path, ImageFolder], Iterable[AnnotatedImage]]
    """Yields the images that the annotations at a path list."""
    frame: Literal["stored", "upright"] = "stored"
    """Frame of the coordinates that the format's own tools write: upright where they show images after EXIF rotation."""
    has_sets: bool = False
    """Whether one file may list several sets, of which annotation_set chooses one."""

    def fit(self, look: Look) -> Fit:
        """Returns how well what a look shows fits this format."""
        if self.place != "either" and look.is_folder != (self.place == "folder"):
            return NO_FIT
        return self.examine(look)
