"""The folder of a split's images, as the readers of annotations see it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from ocr.datasets.folder_listing import AmbiguousName, FolderListing
from ocr.datasets.formats.annotated import FormatProblem
from ocr.datasets.image_checks import CONVERTED_EXTENSIONS
from ocr.datasets.image_header import ImageHeader, ImageProblem, read_header
from ocr.datasets.orientation import stored_from_original, upright_size

_LONGEST_PATH = 4096
"""Characters of the longest path that Linux opens."""
_MOST_FOLDERS = 64
"""Folders below the image folder that the end of another machine's path may name."""
_CTW1500_TEST = re.compile(r"000\d{4}")
"""Stem of a test file of CTW1500: 0001001.txt belongs to 1001.jpg."""


@dataclass(frozen=True)
class ImageFolder:
    """Finds the image that an annotation means, and its size."""

    path: Path
    extensions: tuple[str, ...]
    """Image extensions, lower case, with their dot."""
    frame: Literal["stored", "upright"] = "stored"
    """Frame of the annotations' coordinates."""
    annotation_set: str | None = None
    """Set that is meant where a file of annotations lists several, such as val; None: the file must hold one."""

    def locate(self, name: str) -> str:
        """Returns the file name, relative to the folder, of the image that annotations call `name`.

        Annotations often name a path of another machine, or one that starts above this folder. The longest end of the path that is
        a file of this folder is meant, first as written, then in another Unicode form, case or slash. A name that fits no file, or
        several, comes back for the audit to report.
        """
        found = self.find(name)
        return name if found is None else found

    def find(self, name: str) -> str | None:
        """Returns the longest end of a path that is a file of this folder, or fits several; None: no end is one."""
        if len(name) > _LONGEST_PATH:
            return None
        parts = name.replace("\\", "/").rsplit("/", _MOST_FOLDERS)
        ends = [name] + ["/".join(parts[start:]) for start in range(1, len(parts))]
        for end in ends:
            if end in self.listing:
                return end
        for end in ends:
            try:
                found = self.listing.find(end) if end else None
            except AmbiguousName:
                return end
            if found is not None:
                return found.name
        return None

    def called(self, name: str) -> tuple[str, ...]:
        """Returns the names of the images that may be meant by a name with its extension: usually one or none."""
        if not name.lower().endswith((*self.extensions, *CONVERTED_EXTENSIONS)):
            return ()
        try:
            found = self.listing.find(name)
        except AmbiguousName as error:
            return error.candidates
        return () if found is None else (found.name,)

    def with_stem(self, stem: str) -> tuple[str, ...]:
        """Returns the names of the images that may be meant by a name without its extension, sorted; usually one.

        Only if no image of the configured extensions fits, TIFF, BMP, WebP and GIF files are looked up.
        """
        return tuple(
            self.listing.with_stem(stem, self.extensions) or self.listing.with_stem(stem, CONVERTED_EXTENSIONS)
        )

    def belonging_to(self, stem: str, prefixes: Sequence[str] = ("",)) -> tuple[str, list[FormatProblem]]:
        """Returns the image that an annotation file belongs to, or the name that it should have, and a problem if several fit.

        Args:
            stem: name of the annotation file without its extension: that of the image, with or without extension.
            prefixes: beginnings of `stem`, in lower case, that may not be part of the image's name; the likeliest last.
        """
        names = [stem[len(prefix) :] for prefix in prefixes if stem.lower().startswith(prefix)]
        for name in [*names, *(name[3:] for name in names if _CTW1500_TEST.fullmatch(name))]:
            found = self.called(name) or self.with_stem(name)
            if len(found) > 1:
                return found[0], [FormatProblem(None, f"images {' and '.join(found)}", "one image of that name")]
            if found:
                return found[0], []
        missing = names[-1]
        return (missing if missing.lower().endswith(self.extensions) else missing + self.extensions[0]), []

    def size_of(self, filename: str) -> tuple[int, int] | None:
        """Returns the size (H, W) of an image in the frame of the annotations, or None if the file's header does not give it."""
        header = self._header_of(filename)
        if header is None:
            return None
        return header.stored_size if self.frame == "stored" else upright_size(header.orientation, header.stored_size)

    def pixels_from_upright_shares(self, filename: str) -> np.ndarray | None:
        """Returns the matrix (2, 3) from parts of the upright image's width and height to pixels in the frame of the annotations.

        None: the file's header does not give its size.
        """
        header = self._header_of(filename)
        if header is None:
            return None
        height, width = upright_size(header.orientation, header.stored_size)
        pixels = np.array([[width, 0, 0], [0, height, 0], [0, 0, 1]], np.float64)
        if self.frame == "stored":
            pixels = stored_from_original(header.orientation, header.stored_size) @ pixels
        return pixels[:2]

    def _header_of(self, filename: str) -> ImageHeader | None:
        try:
            with (self.path / filename).open("rb") as file:
                return read_header(file)
        except (ImageProblem, OSError, ValueError):  # ValueError: a name with a zero character
            return None

    @cached_property
    def listing(self) -> FolderListing:
        """All files of the folder."""
        if not self.path.is_dir():
            raise FileNotFoundError(f"{self.path}: there is no such image folder")
        return FolderListing(self.path)
