"""Strings of a whole data set, such as its file names, as one array of bytes: no Python object per string."""

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np
import numpy.typing as npt

from dali_pipelines.compiled import compiled
from ocr.polygons import gather_ranges, starts_of

# Half of a surrogate pair can be part of a file name; it stands for a byte that is not UTF-8.
_ENCODING, _ERRORS = "utf-8", "surrogatepass"


class Names(Sequence[str]):
    """N strings, each made when it is looked up. They equal any sequence of the same strings."""

    def __init__(self, content: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64], prefix: str = "") -> None:
        """Takes the strings as they are stored.

        Args:
            content: (B,) UTF-8 of all strings, one after the other.
            starts: (N + 1,) string i is content[starts[i]:starts[i + 1]].
            prefix: put before each string, such as a folder with its slash.
        """
        self.content = content
        self.starts = starts
        self.prefix = prefix

    @classmethod
    def of(cls, strings: Iterable[str], prefix: str = "") -> "Names":
        """Returns the strings, without the prefix, as names."""
        encoded = [string.encode(_ENCODING, _ERRORS) for string in strings]
        content = np.frombuffer(b"".join(encoded), np.uint8)
        return cls(content, starts_of([len(part) for part in encoded]), prefix)

    @classmethod
    def joined(cls, parts: Sequence["Names"]) -> "Names":
        """Returns the strings of all parts, without their prefixes."""
        contents = [np.zeros(0, np.uint8), *(part.content for part in parts)]
        counts = [np.zeros(0, np.int64), *(np.diff(part.starts) for part in parts)]
        return cls(np.concatenate(contents), starts_of(np.concatenate(counts)))

    def __len__(self) -> int:
        return len(self.starts) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        number = len(self)
        if not -number <= index < number:
            raise IndexError(f"position {index} of {number} names")
        index = int(index) % number
        encoded = self.content[self.starts[index] : self.starts[index + 1]].tobytes()
        return self.prefix + encoded.decode(_ENCODING, _ERRORS)

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # as a list

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self[:3]))
        return f"Names({len(self)}: {shown}{', ...' if len(self) > 3 else ''})"

    def with_prefix(self, prefix: str) -> "Names":
        """Returns the same strings behind another prefix."""
        return Names(self.content, self.starts, prefix)

    @property
    def codes(self) -> npt.NDArray[np.uint64]:
        """(N,): a hash of each string. Equal strings have equal codes, and others almost never."""
        return _codes(self.content, self.starts)

    def equal(
        self, rows: npt.NDArray[np.int64], other: "Names", other_rows: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.bool_]:
        """Returns whether the strings at `rows` equal those at `other_rows` of others, without the prefixes."""
        return _equal(self.content, self.starts, rows, other.content, other.starts, other_rows)

    def select(self, indices: npt.ArrayLike) -> "Names":
        """Returns the strings at these positions, in this order."""
        chosen, starts = gather_ranges(self.starts, np.asarray(indices, np.int64))
        return Names(self.content[chosen], starts, self.prefix)


@compiled
def _codes(content: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    codes = np.empty(len(starts) - 1, np.uint64)
    for i in range(len(codes)):
        code = np.uint64(14695981039346656037)  # FNV-1a
        for place in range(starts[i], starts[i + 1]):
            code = (code ^ np.uint64(content[place])) * np.uint64(1099511628211)
        codes[i] = code ^ (code >> np.uint64(29))
    return codes


@compiled
def _equal(
    content: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    other_content: npt.NDArray[np.uint8],
    other_starts: npt.NDArray[np.int64],
    other_rows: npt.NDArray[np.int64],
) -> npt.NDArray[np.bool_]:
    equal = np.empty(len(rows), np.bool_)
    for i in range(len(rows)):
        first, other = starts[rows[i]], other_starts[other_rows[i]]
        length = starts[rows[i] + 1] - first
        equal[i] = length == other_starts[other_rows[i] + 1] - other
        for place in range(length if equal[i] else 0):
            if content[first + place] != other_content[other + place]:
                equal[i] = False
    return equal
