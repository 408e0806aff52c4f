"""Finds the splits of a data set in a folder, for data=auto: which annotations and images there are, and what belongs together.

Every folder and file is looked at as `ocr.datasets.formats` does. Names of folders and files tell the split: train, training,
val, validation, test and so on, as words of their own (`ch4_training_images`, `instances_val2017.json`).
"""

import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

from ocr.datasets.folder_listing import is_folder
from ocr.datasets.formats.image_folder import ImageFolder
from ocr.datasets.formats.interface import AnnotationFormat, Confidence, Fit
from ocr.datasets.formats.look import Look, look_at
from ocr.datasets.formats.read import advice_on, fitting_formats
from ocr.errors import InputError

log = logging.getLogger(__name__)

SPLIT_OF_WORD = {
    "train": "train",
    "training": "train",
    "trainval": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
    "eval": "test",
}
"""Words in the names of folders and files that tell the split."""
_MAX_DEPTH = 4
"""Number of levels of folders that are looked at."""
_MAX_FOLDERS = 500
_MAX_FILES = 50
"""Largest number of files of a folder that are looked at one by one; a folder with more has one file per image."""
_FILE_ENDINGS = (".json", ".txt", ".xml", ".tsv")
_NUM_TRIED = 20
"""Number of annotated images that are looked up in each image folder, if several folders are candidates."""
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")


@dataclass(frozen=True)
class FoundAnnotations:
    """Annotations, and how well they fit a format."""

    path: Path
    format: AnnotationFormat
    fit: Fit

    def __str__(self) -> str:
        return f"{self.path}: {self.format.title} ({self.fit.confidence.name.lower()}: {self.fit.reason})"


@dataclass(frozen=True)
class FoundSplit:
    """Images and annotations of one split."""

    image_path: str
    annotation_path: str
    annotation_format: str
    annotation_frame: str


@lru_cache
def find_splits(root: str, extensions: tuple[str, ...]) -> dict[str, FoundSplit]:
    """Returns the splits of the data set in a folder by name, and logs what was found. It looks once per folder.

    A missing validation set is replaced by the test set, and the other way round. A data set without names of splits is all
    training data.

    Args:
        root: the folder.
        extensions: image extensions, lower case, with their dot.

    Raises:
        InputError: there are no annotations that a reader knows, or two that fit a split equally well.
        FileNotFoundError: there is no such folder.
    """
    if not Path(root).is_dir():
        raise FileNotFoundError(f"{root}: there is no such folder; set dataset_base_path to the folder of the data set")
    looks = list(_folders(Path(root)))
    annotations = [found for look in looks for found in _annotations_in(look)]
    image_dirs = [look.path for look in looks if any(name.lower().endswith(extensions) for name in look.names)]
    if not annotations:
        raise InputError(
            f"{root}: images in {len(image_dirs)} of {len(looks)} folders, but no annotations that a reader knows; "
            f"{advice_on(looks[0])}; scripts/predict.py finds text without annotations"
        )
    splits = {}
    for split in ("train", "val", "test"):
        own = [found for found in annotations if split_of(found.path, root) == split]
        if own:
            splits[split] = _found_split(split, _best(own, root), image_dirs, root, extensions)
    if not splits:
        splits["train"] = _found_split("train", _best(annotations, root), image_dirs, root, extensions)
        log.warning(
            "%s: found no names of splits, so all of it is training data; the validation data are set by "
            "datasets.val_dataset.config.image_path and annotation_path",
            root,
        )
    for split, other in (("val", "test"), ("test", "val")):
        if split not in splits and other in splits:
            splits[split] = splits[other]
            log.info("%s: found no %s data; the %s data take their place", root, split, other)
    return splits


def format_in(root: Path) -> AnnotationFormat | None:
    """Returns the format of the annotations in a folder; None: no reader knows them, or several fit equally well."""
    found = [one for look in _folders(root) for one in _annotations_in(look)]
    most = max((one.fit.confidence for one in found), default=Confidence.NONE)
    formats = {one.format.name: one.format for one in found if one.fit.confidence == most}
    return next(iter(formats.values())) if len(formats) == 1 else None


def split_of(path: Path, root: str | Path) -> str | None:
    """Returns train, val or test if a name in the path below a folder says so; the last name that does is meant."""
    for part in reversed(path.relative_to(root).parts):
        splits = [SPLIT_OF_WORD[word.lower()] for word in _WORD.findall(part) if word.lower() in SPLIT_OF_WORD]
        if splits:
            return splits[-1]
    return None


def _folders(root: Path) -> Iterator[Look]:
    """Yields a look at a folder and each folder below it that can be read, parents first, sorted by name."""
    waiting, num_seen = [(root, 0)], 0
    while waiting and num_seen < _MAX_FOLDERS:
        folder, depth = waiting.pop(0)
        num_seen += 1
        try:
            look = look_at(folder)
        except OSError as error:
            if folder == root:
                raise
            log.warning("%s: skipped: cannot be read: %s", folder, error.strerror)  # such as lost+found of a disk
            continue
        yield look
        if depth < _MAX_DEPTH:
            with os.scandir(folder) as entries:
                names = sorted(entry.name for entry in entries if not entry.name.startswith(".") and is_folder(entry))
            waiting += [(folder / name, depth + 1) for name in names]


def _annotations_in(look: Look) -> list[FoundAnnotations]:
    """Returns the annotations that a folder is, or else those that it holds as files."""
    as_folder = _best_fits(look)
    if as_folder:
        return as_folder
    names = [name for name in look.names if name.lower().endswith(_FILE_ENDINGS)]
    if len(names) > _MAX_FILES:
        return []
    return [found for name in names for found in _best_fits(look_at(look.path / name))]


def _best_fits(look: Look) -> list[FoundAnnotations]:
    """Returns the formats that fit best, if they are at least likely."""
    fits = [(found, fit) for found, fit in fitting_formats(look) if fit.confidence >= Confidence.LIKELY]
    return [FoundAnnotations(look.path, found, fit) for found, fit in fits if fit.confidence == fits[0][1].confidence]


def _best(candidates: Sequence[FoundAnnotations], root: str) -> FoundAnnotations:
    """Returns the annotations that fit best.

    Raises:
        InputError: two fit equally well.
    """
    most = max(found.fit.confidence for found in candidates)
    best = [found for found in candidates if found.fit.confidence == most]
    if len(best) > 1:
        listed = "; ".join(str(found) for found in best[:4])
        raise InputError(
            f"{root}: these fit equally well: {listed}; choose by data=NAME, or by image_path, annotation_path and "
            "annotation_format of each split (datasets.train_dataset.config and so on)"
        )
    return best[0]


def _found_split(
    split: str, annotations: FoundAnnotations, image_dirs: Sequence[Path], root: str, extensions: tuple[str, ...]
) -> FoundSplit:
    of_split = [folder for folder in image_dirs if split_of(folder, root) == split]
    image_dir = _image_dir(annotations, of_split or image_dirs, root, extensions)
    log.info("data=auto: %s: %s; images %s", split, annotations, image_dir)
    return FoundSplit(str(image_dir), str(annotations.path), annotations.format.name, annotations.format.frame)


def _image_dir(
    annotations: FoundAnnotations, candidates: Sequence[Path], root: str, extensions: tuple[str, ...]
) -> Path:
    """Returns the folder that holds most of the first annotated images; of several with equally many, a canonical one."""
    if len(candidates) == 1:
        return candidates[0]
    counts = {folder: _num_held(annotations, ImageFolder(folder, extensions)) for folder in candidates}
    most = max(counts.values(), default=0)
    if not most:
        raise InputError(
            f"{root}: found {annotations}, but none of its first images in {len(candidates)} folders of images; set image_path"
        )
    best = [folder for folder, count in counts.items() if count == most]
    return next((folder for folder in best if "canonical" in folder.name), best[0])


def _num_held(annotations: FoundAnnotations, images: ImageFolder) -> int:
    try:
        first = list(islice(annotations.format.read(annotations.path, images), _NUM_TRIED))
    except InputError:  # the run reports it, with the path that was chosen
        return 0
    return sum(image.filename in images.listing for image in first)
