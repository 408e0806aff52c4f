"""The folder of a split's images, as the readers of annotations see it."""

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal

from ocr.datasets.image_header import ImageProblem, read_header
from ocr.datasets.orientation import upright_size


@dataclass(frozen=True)
class ImageFolder:
    """Finds the image that an annotation means, and its size."""

    path: Path
    extensions: tuple[str, ...]
    """Image extensions, lower case, with their dot."""
    frame: Literal["stored", "upright"] = "stored"
    """Frame of the annotations' coordinates."""

    def locate(self, name: str) -> str:
        """Returns the file name, relative to the folder, of the image that annotations call `name`.

        Annotations often name a path of another machine, or one that starts above this folder. The longest end of the path that is
        a file of this folder is meant. A name without a file comes back unchanged, for the audit to report.
        """
        parts = PurePosixPath(name).parts
        for start in range(len(parts)):
            candidate = "/".join(parts[start:])
            if not candidate.startswith("/") and ".." not in parts[start:] and self._has(candidate):
                return candidate
        return name

    def with_stem(self, stem: str) -> tuple[str, ...]:
        """Returns the names of the folder's images with this name before the extension, sorted; usually one."""
        return self._by_stem.get(stem, ())

    def size_of(self, filename: str) -> tuple[int, int] | None:
        """Returns the size (H, W) of an image in the frame of the annotations, or None if the file's header does not give it."""
        try:
            with (self.path / filename).open("rb") as file:
                header = read_header(file)
        except (ImageProblem, OSError, ValueError):  # ValueError: a name with a zero character
            return None
        return header.stored_size if self.frame == "stored" else upright_size(header.orientation, header.stored_size)

    def _has(self, name: str) -> bool:
        try:
            return (self.path / name).is_file()
        except (OSError, ValueError):  # a name that no file system can store
            return False

    @cached_property
    def _by_stem(self) -> dict[str, tuple[str, ...]]:
        names: dict[str, tuple[str, ...]] = defaultdict(tuple)
        for path in sorted(self.path.iterdir()) if self.path.is_dir() else []:
            if path.suffix.lower() in self.extensions:
                names[path.stem] += (path.name,)
        return dict(names)
