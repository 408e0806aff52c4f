"""Code shared by formats with one annotation file for each image."""

import re
from collections.abc import Sequence

from ocr.datasets.formats.annotated import AnnotatedImage, AnnotatedWord, FormatProblem
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


def annotated_image(
    filename: str,
    source: str,
    parts: Sequence[AnnotatedWord | FormatProblem],
    declared_size: tuple[float | None, float | None] = (None, None),
) -> AnnotatedImage:
    """Returns the image with the words and the problems among `parts`, each in order."""
    words = tuple(part for part in parts if isinstance(part, AnnotatedWord))
    problems = tuple(part for part in parts if isinstance(part, FormatProblem))
    return AnnotatedImage(filename, source, words, declared_size, problems)
