"""Chooses the reader of annotations."""

from collections.abc import Sequence
from pathlib import Path

from ocr.datasets.formats.annotated import AnnotatedImage
from ocr.datasets.formats.icdar import read_icdar
from ocr.datasets.formats.upstage import read_upstage


def read_annotations(path: Path, image_dir: Path, extensions: Sequence[str]) -> list[AnnotatedImage]:
    """Returns the annotations at `path`: a folder of ICDAR text files, or an Upstage JSON file.

    Args:
        path: file or folder of the annotations.
        image_dir: folder of the images, for formats whose files do not name theirs.
        extensions: image extensions, lower case, with their dot.

    Raises:
        FileNotFoundError: there is no annotation at this path.
        InputError: the annotations as a whole cannot be read.
        OSError: a file of them cannot be opened.
    """
    return read_icdar(path, image_dir, extensions) if path.is_dir() else read_upstage(path)
