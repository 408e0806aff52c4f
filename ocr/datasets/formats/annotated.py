"""Annotations as their files state them: the result of every reader, before any check of the content.

A reader raises only when the annotation file as a whole is unreadable. It records what it cannot understand about one image or
word as a `FormatProblem`, so that the audit can list all of them at once.

A reader yields one `AnnotatedImage` after the other; `chunks_of` packs them into arrays for the audit. A reader of large files
may offer `AnnotationChunks` instead, which needs no Python object per word.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ocr.polygons import starts_of

CHUNK_IMAGES = 2048
"""Largest number of images in a chunk."""


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
        """The points (n, 2) without repeats of the point before; the point before the first is the last."""
        points = self.points
        differs = np.empty(len(points), np.bool_)
        np.any(points[1:] != points[:-1], axis=1, out=differs[1:])
        differs[:1] = (points[:1] != points[-1:]).any()
        return points[differs] if differs.any() else points[:1]


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

    @classmethod
    def of(
        cls,
        filename: str,
        source: str,
        parts: Sequence[AnnotatedWord | FormatProblem],
        declared_size: tuple[float | None, float | None] = (None, None),
        *,
        keys_are_lines: bool = False,
    ) -> "AnnotatedImage":
        """Returns the image with the words and the problems among `parts`, each in order."""
        words = tuple(part for part in parts if isinstance(part, AnnotatedWord))
        problems = tuple(part for part in parts if isinstance(part, FormatProblem))
        return cls(filename, source, words, declared_size, problems, keys_are_lines)

    def place(self, word: str | None = None) -> str:
        """Returns where a person finds the image or word: `train.json (a.jpg, word 0001)` or `gt_a.txt:12 (a.jpg)`."""
        if word is None:
            return f"{self.source} ({self.filename})"
        if self.keys_are_lines:
            return f"{self.source}:{word} ({self.filename})"
        return f"{self.source} ({self.filename}, word {word})"


@dataclass(frozen=True)
class AnnotatedChunk:
    """N consecutive images of one reader as arrays: W words with V points in all."""

    filenames: Sequence[str]
    sources: Sequence[str]
    """Name of the annotation file of each image."""
    points: npt.NDArray[np.float64]
    """(V, 2): (x, y) of all words, as in `AnnotatedWord`."""
    point_starts: npt.NDArray[np.int64]
    """(W + 1,): word w has points[point_starts[w]:point_starts[w + 1]]."""
    word_starts: npt.NDArray[np.int64]
    """(N + 1,): image i has the words word_starts[i] to word_starts[i + 1]."""
    ignore: npt.NDArray[np.bool_]
    """(W,) don't-care flags."""
    keys: Sequence[str]
    """(W,) names of the words in the annotation file."""
    declared_sizes: npt.NDArray[np.float64]
    """(N, 2): (H, W) according to the annotations; anything where `is_declared` is false."""
    is_declared: npt.NDArray[np.bool_]
    """(N, 2)."""
    problems: dict[int, tuple[FormatProblem, ...]] = field(default_factory=dict)
    """Problems by image, for the images that have any."""
    lines: frozenset[int] = frozenset()
    """Images whose word keys are line numbers of their source."""
    share_read: float | None = None
    """Share of the annotations that has been read after this chunk, 0 to 1; None: unknown."""

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.filenames)

    def image(self, index: int) -> AnnotatedImage:
        """Returns one image with its words as objects."""
        first, last = self.word_starts[index], self.word_starts[index + 1]
        starts = self.point_starts
        height, width = (
            float(size) if is_declared else None
            for size, is_declared in zip(self.declared_sizes[index], self.is_declared[index], strict=True)
        )
        return AnnotatedImage(
            filename=self.filenames[index],
            source=self.sources[index],
            words=tuple(
                AnnotatedWord(self.keys[word], self.points[starts[word] : starts[word + 1]], bool(self.ignore[word]))
                for word in range(first, last)
            ),
            declared_size=(height, width),
            problems=self.problems.get(index, ()),
            keys_are_lines=index in self.lines,
        )


@runtime_checkable
class AnnotationChunks(Protocol):
    """Annotations that come as arrays, many images at once."""

    def chunks(self) -> Iterator[AnnotatedChunk]:
        """Yields all images, in order."""


def chunks_of(images: Iterable[AnnotatedImage]) -> Iterator[AnnotatedChunk]:
    """Yields images as arrays, `CHUNK_IMAGES` at a time. Annotations that come as arrays already are passed on."""
    if isinstance(images, AnnotationChunks):
        yield from images.chunks()
        return
    total = len(images) if isinstance(images, Sequence) else None
    remaining, num_read = iter(images), 0
    while part := list(islice(remaining, CHUNK_IMAGES)):
        num_read += len(part)
        yield _packed(part, None if total is None else num_read / total)


def _packed(images: Sequence[AnnotatedImage], share_read: float | None) -> AnnotatedChunk:
    words = [word for image in images for word in image.words]
    sizes = np.array([image.declared_size for image in images], object)
    is_declared = np.array(sizes != None, np.bool_)  # noqa: E711  element by element
    return AnnotatedChunk(
        filenames=[image.filename for image in images],
        sources=[image.source for image in images],
        points=np.concatenate([np.zeros((0, 2)), *(word.points for word in words)]),
        point_starts=starts_of([len(word.points) for word in words]),
        word_starts=starts_of([len(image.words) for image in images]),
        ignore=np.array([word.ignore for word in words], np.bool_),
        keys=[word.key for word in words],
        declared_sizes=np.where(is_declared, sizes, 0).astype(np.float64),
        is_declared=is_declared,
        problems={index: image.problems for index, image in enumerate(images) if image.problems},
        lines=frozenset(index for index, image in enumerate(images) if image.keys_are_lines),
        share_read=share_read,
    )
