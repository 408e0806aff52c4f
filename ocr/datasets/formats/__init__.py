"""Annotations as their files state them: what the reader of every format gives back, before any check of the content.

A reader raises only when the annotation file as a whole is unreadable. What it cannot understand of one image or word
is noted as a `FormatProblem`, so that the audit can list all of them at once.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class FormatProblem:
    """A part of an annotation that has the wrong form."""

    word: str | None
    """Key of the word; None when the image's annotation as a whole is affected."""
    found: str
    expected: str


@dataclass(frozen=True)
class AnnotatedWord:
    """One text region."""

    key: str
    """How the annotation file calls it: a JSON key, or the line number."""
    points: npt.NDArray[np.float64]
    """(n, 2), (x, y) pixels of the frame the data set uses; any n, also NaN."""
    ignore: bool = False
    """A don't-care region."""


@dataclass(frozen=True)
class AnnotatedImage:
    """One listed image."""

    filename: str
    """As written in the annotations, or relative to the image folder, with /."""
    source: str
    """Name of the annotation file."""
    words: tuple[AnnotatedWord, ...] = ()
    declared_size: tuple[float | None, float | None] = (None, None)
    """(H, W) that the annotations claim."""
    problems: tuple[FormatProblem, ...] = ()
    keys_are_lines: bool = False
    """Word keys are line numbers of `source`."""

    def place(self, word: str | None = None) -> str:
        """Where a person finds it: `train.json (a.jpg, word 0001)` or `gt_a.txt:12 (a.jpg)`."""
        if word is None:
            return f"{self.source} ({self.filename})"
        if self.keys_are_lines:
            return f"{self.source}:{word} ({self.filename})"
        return f"{self.source} ({self.filename}, word {word})"
