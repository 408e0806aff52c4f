"""What formats with one annotation file for each image share."""

from collections.abc import Sequence

from ocr.datasets.formats.annotated import AnnotatedImage, AnnotatedWord, FormatProblem
from ocr.datasets.formats.image_folder import ImageFolder


def image_of_stem(images: ImageFolder, stem: str) -> tuple[str, list[FormatProblem]]:
    """Returns the image with this stem, or the name that it should have, and a problem if there are several."""
    found = images.with_stem(stem)
    if len(found) > 1:
        return found[0], [FormatProblem(None, f"images {' and '.join(found)}", "one image of that name")]
    return (found[0] if found else stem + images.extensions[0]), []


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
