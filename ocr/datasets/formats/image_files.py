"""Finds the image of an annotation file, for formats with one file for each image."""

import re
from collections.abc import Sequence

from ocr.datasets.formats.annotated import FormatProblem
from ocr.datasets.formats.image_folder import ImageFolder

_CTW1500_TEST = re.compile(r"000\d{4}")
"""Stem of a test file of CTW1500: 0001001.txt belongs to 1001.jpg."""


def image_of_stem(images: ImageFolder, stem: str, prefixes: Sequence[str] = ("",)) -> tuple[str, list[FormatProblem]]:
    """Returns the image that an annotation file belongs to, or the name that it should have, and a problem if several fit.

    Args:
        images: folder of the images.
        stem: name of the annotation file without its extension: that of the image, with or without extension.
        prefixes: beginnings of `stem`, in lower case, that may not be part of the image's name; the likeliest last.
    """
    names = [stem[len(prefix) :] for prefix in prefixes if stem.lower().startswith(prefix)]
    for name in [*names, *(name[3:] for name in names if _CTW1500_TEST.fullmatch(name))]:
        found = images.called(name) or images.with_stem(name)
        if len(found) > 1:
            return found[0], [FormatProblem(None, f"images {' and '.join(found)}", "one image of that name")]
        if found:
            return found[0], []
    missing = names[-1]
    return (missing if missing.lower().endswith(images.extensions) else missing + images.extensions[0]), []
