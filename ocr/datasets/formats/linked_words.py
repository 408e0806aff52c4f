"""Words of a format that lists images and annotations apart and links them by ids."""

from array import array
from collections.abc import Container, Iterable
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ocr.datasets.formats.annotated import AnnotatedImage, AnnotatedWord, FormatProblem
from ocr.datasets.formats.json_values import Points, Size


class LinkedWords:
    """Collects the words of a whole set in the order of its file, and gives them back by image.

    An annotation may stand before its image, and annotations of one image anywhere in the file, so no image is known whole
    before the end. The words are kept as columns of numbers: 16 bytes a vertex and about 30 bytes a word.
    """

    def __init__(self) -> None:
        self._number_of: dict[str, int] = {}
        """Numbers images by their id, in the order in which the file names them."""
        self._owners = array("q")
        self._coordinates = array("d")
        self._ends = array("q")
        """Number of coordinates up to the end of each word."""
        self._ignore = bytearray()
        self._keys = bytearray()
        self._key_ends = array("q")
        self._problems: dict[int, list[FormatProblem]] = {}

    def __len__(self) -> int:
        return len(self._owners)

    def add(self, image_id: str, key: str, points: Points, ignore: bool) -> None:
        """Adds a word of an image."""
        self._owners.append(self._number(image_id))
        self._coordinates.frombytes(points.tobytes())
        self._ends.append(len(self._coordinates))
        self._ignore.append(ignore)
        self._keys += key.encode("utf-8", "surrogatepass")  # JSON may hold half a surrogate pair
        self._key_ends.append(len(self._keys))

    def add_problem(self, image_id: str, problem: FormatProblem) -> None:
        """Adds a malformed word of an image, or a problem of the image itself."""
        self._problems.setdefault(self._number(image_id), []).append(problem)

    def set_ignored(self, words: Iterable[int]) -> None:
        """Makes words don't-care regions; they are numbered from 0 in the order in which they were added."""
        for word in words:
            self._ignore[word] = True

    def words_of(self, image_id: str) -> tuple[AnnotatedWord, ...]:
        """Returns the words of an image in the order of the file. No word may be added after the first call."""
        number = self._number_of.get(image_id)
        if number is None:
            return ()
        order, starts = self._by_image
        return tuple(self._word(word) for word in order[starts[number] : starts[number + 1]].tolist())

    def image(self, image_id: str, filename: str, source: str, size: Size) -> AnnotatedImage:
        """Returns an image with its words and the problems of both. No word may be added after the first call.

        Args:
            filename: relative to the image folder.
            source: name of the annotation file.
            size: (H, W) according to the annotations.
        """
        problems = tuple(self._problems.get(self._number_of.get(image_id, -1), ()))
        return AnnotatedImage(filename, source, self.words_of(image_id), size, problems)

    def images_not_in(self, listed: Container[str]) -> list[str]:
        """Returns the ids that annotations name but that are not listed."""
        return [image_id for image_id in self._number_of if image_id not in listed]

    @cached_property
    def _by_image(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Words sorted by image, and the place (num_images + 1,) of each image's first word among them."""
        owners = np.frombuffer(self._owners, np.int64)
        order = np.argsort(owners, kind="stable")
        return order, np.searchsorted(owners[order], np.arange(len(self._number_of) + 1))

    def _word(self, word: int) -> AnnotatedWord:
        start, key_start = (self._ends[word - 1], self._key_ends[word - 1]) if word else (0, 0)
        points = np.array(self._coordinates[start : self._ends[word]]).reshape(-1, 2)
        key = self._keys[key_start : self._key_ends[word]].decode("utf-8", "surrogatepass")
        return AnnotatedWord(key, points, bool(self._ignore[word]))

    def _number(self, image_id: str) -> int:
        return self._number_of.setdefault(image_id, len(self._number_of))
