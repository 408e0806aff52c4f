"""Annotations as their files state them: the result of every reader, before any check of the content.

A reader raises only when the annotation file as a whole is unreadable. It records what it cannot understand about one image or
word as a `FormatProblem`, so that the audit can list all of them at once.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class FormatProblem:
    """Part of an annotation that has the wrong form."""

    word: str | None
    """Key of the word; None: the annotation of the image as a whole."""
    found: str
    expected: str


@dataclass(frozen=True)
class AnnotatedWord:
    """One text region."""

    key: str
    """Name of the word in the annotation file: a JSON key or a line number."""
    points: npt.NDArray[np.float64]
    """(n, 2): (x, y) in pixels of the data set's frame; any n, NaN included."""
    ignore: bool = False
    """Whether this is a don't-care region."""

    @property
    def distinct_points(self) -> npt.NDArray[np.float64]:
        """The points (n, 2) without those that equal the one before; the last point comes before the first."""
        differs = (self.points != np.roll(self.points, 1, axis=0)).any(axis=1)
        return self.points[differs] if differs.any() else self.points[:1]


@dataclass(frozen=True)
class AnnotatedImage:
    """One listed image."""

    filename: str
    """As written in the annotations, or relative to the image folder, with /."""
    source: str
    """Name of the annotation file; empty without one."""
    words: tuple[AnnotatedWord, ...] = ()
    declared_size: tuple[float | None, float | None] = (None, None)
    """(H, W) according to the annotations."""
    problems: tuple[FormatProblem, ...] = ()
    keys_are_lines: bool = False
    """Whether word keys are line numbers of `source`."""

    def place(self, word: str | None = None) -> str:
        """Returns where a person finds the image or word: `train.json (a.jpg, word 0001)` or `gt_a.txt:12 (a.jpg)`."""
        if word is None:
            return f"{self.source} ({self.filename})"
        if self.keys_are_lines:
            return f"{self.source}:{word} ({self.filename})"
        return f"{self.source} ({self.filename}, word {word})"
