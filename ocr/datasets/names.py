"""Strings of a whole data set, such as its file names, as one array of bytes: no Python object a string."""

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np
import numpy.typing as npt

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

    def __len__(self) -> int:
        return len(self.starts) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise IndexError(f"position {index} of {len(self)} names")
        index = int(index) % len(self)
        return self.prefix + str(self.content[self.starts[index] : self.starts[index + 1]], _ENCODING, _ERRORS)

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

    def select(self, indices: npt.ArrayLike) -> "Names":
        """Returns the strings at these positions, in this order."""
        chosen, starts = gather_ranges(self.starts, np.asarray(indices, np.int64))
        return Names(self.content[chosen], starts, self.prefix)
