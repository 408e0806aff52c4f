"""Chooses the reader of annotations: by its name, or by looking at them."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ocr.datasets.formats.alto import ALTO
from ocr.datasets.formats.annotated import AnnotatedImage
from ocr.datasets.formats.coco import COCO
from ocr.datasets.formats.coco_text import COCO_TEXT
from ocr.datasets.formats.ctw1500 import CTW1500
from ocr.datasets.formats.ctw1500_xml import CTW1500_XML
from ocr.datasets.formats.cvat import CVAT
from ocr.datasets.formats.doctr import DOCTR
from ocr.datasets.formats.icdar import CXCYWH, DB, ICDAR, MLT, SROIE, XYWH
from ocr.datasets.formats.image_folder import ImageFolder
from ocr.datasets.formats.interface import AnnotationFormat, Confidence, Fit
from ocr.datasets.formats.label_studio import LABEL_STUDIO
from ocr.datasets.formats.labelme import LABELME
from ocr.datasets.formats.look import Look, look_at
from ocr.datasets.formats.mmocr import MMOCR
from ocr.datasets.formats.paddleocr import PADDLEOCR
from ocr.datasets.formats.page_xml import PAGE_XML
from ocr.datasets.formats.totaltext import TOTALTEXT
from ocr.datasets.formats.totaltext_mat import TOTALTEXT_MAT
from ocr.datasets.formats.upstage import UPSTAGE
from ocr.datasets.formats.yolo import YOLO
from ocr.errors import InputError

log = logging.getLogger(__name__)

FORMATS: tuple[AnnotationFormat, ...] = (
    UPSTAGE,
    ICDAR,
    MLT,
    SROIE,
    DB,
    TOTALTEXT,
    TOTALTEXT_MAT,
    CTW1500,
    CTW1500_XML,
    PADDLEOCR,
    YOLO,
    MMOCR,
    DOCTR,
    COCO,
    COCO_TEXT,
    LABELME,
    LABEL_STUDIO,
    CVAT,
    PAGE_XML,
    ALTO,
    XYWH,
    CXCYWH,
)
"""All formats that are read."""
_OTHER_FILES = {
    "PK\x03\x04": "a ZIP archive; unpack it",
    "\x1f": "a compressed archive; unpack it",
    "\ufffdPNG": "a PNG image",
    "\ufffd\ufffd\ufffd": "a JPEG image or another binary file",
}
"""Beginnings, as text, of files that are no annotations."""
_NUM_TRIED = 20
"""Number of files of a folder that are looked at for advice."""
AUTO = "auto"
"""The format's name that stands for a look at the annotations."""
READ_AS = "%s: read as %s"
"""Log line of a format that was found by looking: path, and title with reason."""


@dataclass(frozen=True)
class ChosenFormat:
    """The reader of annotations, and what the log says of the choice."""

    format: AnnotationFormat
    reason: str
    """Title of the format and why a look found it; empty if the configuration names the format."""
    warnings: tuple[str, ...] = ()


def choose_format(path: Path, images: ImageFolder, annotation_format: str = AUTO) -> ChosenFormat:
    """Returns the format of the annotations at `path`, which is logged if it was found by looking.

    Args:
        path: file or folder of the annotations.
        images: folder of the images, for the frame of the coordinates and the name of the set.
        annotation_format: name of a format; auto: look at the annotations.

    Raises:
        FileNotFoundError: there is no annotation at this path.
        InputError: the annotations are in another format, or in none that is known.
        OSError: a file of them cannot be opened.
    """
    look = look_at(path)
    reason, warnings = "", []
    if annotation_format == AUTO:
        chosen, fit = find_format(look)
        reason = f"{chosen.title} ({fit.confidence.name.lower()}: {fit.reason})"
        log.info(READ_AS, path, reason)
        if (chosen.frame, images.frame) == ("upright", "stored"):
            warnings.append(
                f"{path}: {chosen.title} shows images upright; if some have an EXIF rotation, set annotation_frame=upright, as "
                f"data={chosen.name} does"
            )
    else:
        chosen = format_named(annotation_format)
        _refuse_other_format(look, chosen)
    if images.annotation_set is not None and not chosen.has_sets:
        raise InputError(
            f"annotation_set={images.annotation_set}: a file of {chosen.title} holds one set; remove the setting, "
            "and give each split its own annotation_path"
        )
    return ChosenFormat(chosen, reason, tuple(warnings))


def read_annotations(path: Path, images: ImageFolder, annotation_format: str = AUTO) -> Iterable[AnnotatedImage]:
    """Returns the annotations at `path`, one image after the other. The format is checked at once, the content when it is read.

    Args and errors: those of `choose_format`, and InputError if the annotations as a whole cannot be read.
    """
    return choose_format(path, images, annotation_format).format.read(path, images)


def format_named(name: str) -> AnnotationFormat:
    """Returns the format with this name.

    Raises:
        InputError: there is none.
    """
    for candidate in FORMATS:
        if candidate.name == name:
            return candidate
    names = ", ".join(candidate.name for candidate in FORMATS)
    raise InputError(f"annotation_format={name}: there is no such format; expected {AUTO} or one of {names}")


def find_format(look: Look) -> tuple[AnnotationFormat, Fit]:
    """Returns the format that fits best, and how well.

    Raises:
        InputError: none fits, or two fit equally well.
    """
    fits = fitting_formats(look)
    if not fits:
        raise InputError(f"{look.path}: {described(look)}, which no reader knows; {advice_on(look)}")
    best = [(found, fit) for found, fit in fits if fit.confidence == fits[0][1].confidence]
    if len(best) > 1:
        named = " and ".join(f"{found.title} ({fit.reason})" for found, fit in best)
        choices = " or ".join(f"annotation_format={found.name}" for found, _ in best)
        raise InputError(f"{look.path}: fits {named} equally well; say {choices}")
    return best[0]


def fitting_formats(look: Look) -> list[tuple[AnnotationFormat, Fit]]:
    """Returns the formats that fit at all, the best first."""
    fits = [(candidate, candidate.fit(look)) for candidate in FORMATS]
    fits = [(candidate, fit) for candidate, fit in fits if fit.confidence > Confidence.NONE]
    return sorted(fits, key=lambda pair: -pair[1].confidence)


def described(look: Look) -> str:
    """Returns what a look shows, for an error message."""
    if look.is_folder:
        suffixes = sorted({Path(name).suffix for name in look.names})
        count = f"{len(look.names)}{'' if look.is_whole else ' or more'}"
        return f"found a folder of {count} files ({', '.join(suffixes[:6]) or 'none'})"
    for start, kind in _OTHER_FILES.items():
        if look.head.startswith(start):
            return f"found {kind}"
    if look.head.lstrip().startswith(("{", "[")) and look.json is None:
        return f"found text that begins like JSON and is not JSON ({look.head[:40]!r})"
    return f"found a file that begins with {look.head[:40]!r}" if look.head else "found an empty file"


def advice_on(look: Look) -> str:
    """Returns what to give instead of a path that no reader knows: its folder, a file in it, or a path in one of the formats."""
    if not look.is_folder:
        near = [(look.path.parent, fit) for fit in fitting_formats(look_at(look.path.parent))]
    else:
        names = [name for name in look.names if name.lower().endswith((".json", ".txt", ".xml"))][:_NUM_TRIED]
        near = [(look.path / name, fit) for name in names for fit in fitting_formats(look_at(look.path / name))]
    for path, (found, fit) in near:
        if fit.confidence >= Confidence.LIKELY:
            return f"give {path}, which looks like {found.title} (annotation_format={found.name})"
    return f"annotation_format is one of {', '.join(candidate.name for candidate in FORMATS)}"


def _refuse_other_format(look: Look, chosen: AnnotationFormat) -> None:
    """Raises InputError if another reader fits better: at least likely where the chosen one does not fit, or else certain.

    If no reader fits a path of the right kind, the chosen one reads on: its own message says best what is wrong.
    """
    own = chosen.fit(look).confidence
    enough = Confidence.CERTAIN if own > Confidence.NONE else Confidence.LIKELY
    others = [(found, fit) for found, fit in fitting_formats(look) if found.read is not chosen.read]
    if others and others[0][1].confidence >= max(enough, own + 1):
        other, fit = others[0]
        raise InputError(
            f"{look.path}: not {chosen.title}: this looks like {other.title} ({fit.reason}), which data={other.name} or "
            f"annotation_format={other.name} reads"
        )
    if chosen.place != "either" and look.is_folder != (chosen.place == "folder"):
        raise InputError(
            f"{look.path}: {described(look)}; expected a {chosen.place} for {chosen.title}; {advice_on(look)}"
        )
