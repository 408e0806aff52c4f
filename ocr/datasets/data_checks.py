"""Checks of a data set against the settings of a run, said before the run begins: would it learn what its owner expects?

All numbers come from the flat arrays of the manifest, in a few passes. Only `shared_images` reads files, and of those only the few
whose dimensions and number of bytes equal those of an image of the other split.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from rich.text import Text

from dali_pipelines.config import PipelineConfig
from ocr.datasets.audit_report import AuditReport
from ocr.datasets.image_source import ask_each
from ocr.datasets.manifest import Manifest
from ocr.file_names import shown
from ocr.polygons import PolygonBatch
from ocr.targets.outline import short_sides

MAX_IMAGES = 200_000
"""Largest number of images that are measured; from a larger set they are taken evenly."""
_MOST = 0.95
"""Share of the words that should be tall enough to be learned."""
_COVERING = 0.8
"""A word that covers more than this share of its image is a crop of a word or line, not a word on a page."""
_LINE_ASPECT = 8.0
"""If one region in ten is longer than this many times its height, lines are annotated and not single words. (Receipts by lines: 12,
street scenes by words: 4.)"""
_NUM_NAMED = 3
"""Number of files that a line names."""


@dataclass(frozen=True)
class CheckSettings:
    """Settings of a run that its data are checked against."""

    pipeline: PipelineConfig
    min_side: float
    """`targets.min_side`."""
    max_candidates: int
    """`postprocess.max_candidates`."""
    training: bool
    """Whether the split is trained on."""
    annotated: bool = True
    """Whether the split has annotations; without them, only the images are checked."""
    before_training: bool = True
    """Whether the command trains or inspects training data. Otherwise it evaluates, predicts or exports."""
    keeps_pixels: bool = False
    """Whether the split keeps decoded images, which makes pipeline.scaled_decode useless."""

    @property
    def size_key(self) -> str:
        """Key of the command that sets the size of the input."""
        return "pipeline.image_size" if self.before_training else "image_size"


@dataclass(frozen=True)
class Measures:
    """Measures of N images and their W words, in pixels of the upright images."""

    positions: npt.NDArray[np.int64]
    """(N,) position of each image in the manifest."""
    sizes: npt.NDArray[np.int32]
    """(N, 2): (H, W)."""
    is_turned: npt.NDArray[np.bool_]
    """(N,) whether EXIF turns the image by 90 degrees."""
    num_words: npt.NDArray[np.int64]
    """(N,) don't-care regions included."""
    image_of_word: npt.NDArray[np.int64]
    """(W,) position among the N images."""
    ignore: npt.NDArray[np.bool_]
    """(W,) don't-care flags."""
    short_sides: npt.NDArray[np.float32]
    """(W,) height of the text, as `targets.min_side` measures it."""
    boxes: npt.NDArray[np.float32]
    """(W, 2): (width, height) of the upright bounding box."""

    @classmethod
    def of(cls, manifest: Manifest, max_images: int = MAX_IMAGES) -> "Measures":
        """Returns the measures of at most `max_images` images."""
        chosen = evenly(len(manifest), max_images)
        is_whole = len(chosen) == len(manifest)
        polygons = manifest.polygons if is_whole else manifest.polygons.select(chosen)
        return cls(
            positions=chosen,
            sizes=manifest.original_sizes[chosen],
            is_turned=manifest.orientations[chosen] >= 5,
            num_words=np.diff(polygons.polygon_starts),
            image_of_word=polygons.image_of_polygon,
            ignore=np.asarray(polygons.ignore),
            short_sides=short_sides(polygons),
            boxes=_bounding_boxes(polygons),
        )

    @property
    def heights_of_longest(self) -> npt.NDArray[np.float64]:
        """(W,) height of each word as a share of its image's longest side, which is scaled to image_size."""
        longest = self.sizes.max(axis=1, initial=1)
        return self.short_sides / longest[self.image_of_word].astype(np.float64)

    @property
    def legible(self) -> npt.NDArray[np.bool_]:
        """(W,) words that are no don't-care regions."""
        return ~self.ignore

    @property
    def aspects(self) -> npt.NDArray[np.float64]:
        """(W,) longer side of the bounding box divided by the shorter one."""
        return self.boxes.max(axis=1, initial=0) / np.maximum(self.boxes.min(axis=1, initial=np.inf), 1.0)


@dataclass(frozen=True)
class DataCheck:
    """The result of the checks of one split."""

    rows: tuple[tuple[str, str], ...]
    """A measurement: its name, and its numbers in words."""
    warnings: tuple[str, ...]
    """One line for each thing to mend: what was found, and what to do."""

    def table(self) -> Text:
        """Returns the rows for the terminal; their `.plain` suits a log. Its end says so if there are no problems."""
        text = Text()
        for name, value in self.rows:
            text.append(f"  {name}: ", "dim")
            text.append(f"{value}\n")
        if not self.warnings:
            text.append("  no problems found", "green")
        return text


def evenly(number: int, at_most: int) -> npt.NDArray[np.int64]:
    """Returns `at_most` positions spread evenly over `number`, or all of them, ascending."""
    return np.unique(np.linspace(0, max(number - 1, 0), min(number, at_most)).astype(np.int64))


def check_data(manifest: Manifest, report: AuditReport | None, settings: CheckSettings) -> DataCheck:
    """Returns what the checks of one split found.

    Args:
        report: report of the split's audit; None: of several data sets, whose findings are not looked at.
    """
    measures = Measures.of(manifest)
    rows, warnings = [_size_row(measures)], []
    small_words = None
    if settings.annotated:
        rows += _word_rows(measures, settings)
        small_words = _small_words(measures, settings)
        findings = (
            _no_text(measures),
            small_words,
            _covered_images(measures),
            _too_many_words(manifest, settings),
            _frame_of_reported(report),
            _frame_of_upright_words(measures),
        )
        warnings += [finding for finding in findings if finding]
    # A larger image_size, which small words call for, needs larger images.
    if settings.before_training and small_words is None:
        large = _large_images(measures, settings)
        warnings += [large] if large else []
    return DataCheck(tuple(rows), tuple(warnings))


def check_splits(train: Manifest, val: Manifest) -> list[str]:
    """Returns one line for each thing that is wrong with training and validation split together."""
    lines = []
    shared = shared_images(train, val)
    if shared:
        names = ", ".join(
            shown(f"{val.filenames[theirs]} = {train.filenames[ours]}") for ours, theirs in shared[:_NUM_NAMED]
        )
        more = f" and {len(shared) - _NUM_NAMED} more" if len(shared) > _NUM_NAMED else ""
        lines.append(
            f"{len(shared):,} of {len(val):,} validation images are in the training split too, byte for byte ({names}{more}), "
            "so val/hmean is too high; remove them from one of the two"
        )
    both = [Measures.of(manifest) for manifest in (train, val)]
    if all(measures.legible.any() for measures in both):
        ours, theirs = (float(np.quantile(measures.aspects[measures.legible], 0.9)) for measures in both)
        if _kind_of_text(ours) != _kind_of_text(theirs) and max(ours, theirs) > 1.5 * min(ours, theirs):
            lines.append(
                f"the training regions look like {_kind_of_text(ours)} (one in ten longer than {ours:.1f} times its height), the "
                f"validation regions like {_kind_of_text(theirs)} ({theirs:.1f}), so val/hmean stays low; annotate both alike"
            )
    return lines


def shared_images(train: Manifest, val: Manifest) -> list[tuple[int, int]]:
    """Returns the (position in train, position in val) of each validation image whose content is that of a training image.

    Images are compared by path, then by dimensions and bytes, and only what is equal so far by the hash of the content.
    """
    sizes = [_size_keys(manifest) for manifest in (train, val)]
    ours, theirs = (np.flatnonzero(np.isin(keys, other)).tolist() for keys, other in (sizes, (sizes[1], sizes[0])))
    by_bytes: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, num_bytes in zip(ours, ask_each(train.images.num_bytes, ours), strict=True):
        by_bytes[int(sizes[0][index]), num_bytes].append(index)
    digests: dict[int, bytes | None] = {}
    shared = []
    for index, num_bytes in zip(theirs, ask_each(val.images.num_bytes, theirs), strict=True):
        candidates = by_bytes.get((int(sizes[1][index]), num_bytes), [])
        if not candidates:
            continue
        path = val.image_paths[index]
        same = next((other for other in candidates if train.image_paths[other] == path), None)
        if same is None:
            digest = val.images.digest(index)
            for other in candidates:
                if other not in digests:
                    digests[other] = train.images.digest(other)
            same = next((other for other in candidates if digest is not None and digests[other] == digest), None)
        if same is not None:
            shared.append((same, index))
    return shared


def size_for_most(measures: Measures, min_side: float) -> int | None:
    """Returns the smallest image_size, a multiple of 32, at which 95 % of the legible words are at least `min_side` pixels tall.

    None: no word is legible, or more than 5 % have no height.
    """
    heights = measures.heights_of_longest[measures.legible]
    if not len(heights):
        return None
    lowest = float(np.quantile(heights, 1 - _MOST, method="lower"))
    # Pixels are rounded, and float32: a word of exactly min_side counts.
    return max(32, math.ceil(min_side / lowest / 32 - 1e-4) * 32) if lowest > 0 else None


def _size_keys(manifest: Manifest) -> npt.NDArray[np.int64]:
    """Returns (N,) numbers that are equal for images of equal stored dimensions only."""
    return manifest.stored_sizes[:, 0].astype(np.int64) << 32 | manifest.stored_sizes[:, 1].astype(np.int64)


def _bounding_boxes(polygons: PolygonBatch) -> npt.NDArray[np.float32]:
    """Returns (P, 2): (width, height) of the upright bounding boxes."""
    if not polygons.num_polygons:
        return np.zeros((0, 2), np.float32)
    starts = polygons.vertex_starts[:-1]
    return np.maximum.reduceat(polygons.vertices, starts) - np.minimum.reduceat(polygons.vertices, starts)


def _size_row(measures: Measures) -> tuple[str, str]:
    longest = measures.sizes.max(axis=1, initial=0)
    if not len(longest):
        return "longest side", "no image"
    return "longest side", f"median {np.median(longest):,.0f} px, from {longest.min():,} to {longest.max():,}"


def _word_rows(measures: Measures, settings: CheckSettings) -> list[tuple[str, str]]:
    if not measures.legible.any():
        return []
    size, min_side = settings.pipeline.image_size, settings.min_side
    heights = measures.heights_of_longest[measures.legible] * size
    median, long = np.quantile(measures.aspects[measures.legible], [0.5, 0.9])
    return [
        (
            f"word height at {settings.size_key}={size}",
            f"median {np.median(heights):.1f} px, 5th percentile {np.quantile(heights, 0.05):.1f} px; "
            f"{100 * (heights < min_side).mean():.1f} % are below targets.min_side ({min_side:g} px), "
            "too small to learn at this size",
        ),
        (
            "words per image",
            f"median {np.median(measures.num_words):,.0f}, maximum {measures.num_words.max():,}; "
            f"{100 * (measures.num_words == 0).mean():.1f} % of the images have none",
        ),
        (
            "word length / height",
            f"median {median:.1f}, 90th percentile {long:.1f} ({_kind_of_text(long)})",
        ),
    ]


def _kind_of_text(long_aspect: float) -> str:
    return "text lines" if long_aspect >= _LINE_ASPECT else "single words"


def _no_text(measures: Measures) -> str | None:
    num_words = len(measures.ignore)
    if not num_words:
        return "there is not one word in this split; check annotation_path, and annotation_format if that is auto"
    if measures.ignore.all():
        return (
            f"all {num_words:,} words are don't-care regions, so nothing counts; check the marks (### and the like) and "
            "annotation_format of this split"
        )
    return None


def _small_words(measures: Measures, settings: CheckSettings) -> str | None:
    heights = measures.heights_of_longest[measures.legible] * settings.pipeline.image_size
    share = float((heights < settings.min_side).mean()) if len(heights) else 0.0
    size = size_for_most(measures, settings.min_side)
    if share <= 1 - _MOST or size is None or size <= settings.pipeline.image_size:
        return None
    longest = float(np.median(measures.sizes.max(axis=1)))
    doubt = f" (more than the images' own {longest:,.0f} px)" if size > 1.25 * longest else ""
    return (
        f"{share:.0%} of the words are below {settings.min_side:g} px at {settings.size_key}={settings.pipeline.image_size}, "
        f"too small for the targets; {settings.size_key}={size}{doubt} keeps 95 %"
    )


def _covered_images(measures: Measures) -> str | None:
    areas = measures.sizes.astype(np.float64).prod(axis=1)
    is_covering = measures.boxes.prod(axis=1, dtype=np.float64) > _COVERING * areas[measures.image_of_word]
    num_covered = len(np.unique(measures.image_of_word[is_covering]))
    if num_covered <= 0.01 * len(areas):
        return None
    return (
        f"in {num_covered:,} of {len(areas):,} images a word covers more than {_COVERING:.0%} of the image, as in crops for "
        "recognition; detection needs whole pages, so check image_path"
    )


def _too_many_words(manifest: Manifest, settings: CheckSettings) -> str | None:
    counts = np.diff(manifest.polygons.polygon_starts)
    most = int(counts.max(initial=0))
    if most <= settings.max_candidates:
        return None
    name = shown(manifest.filenames[int(counts.argmax())])
    num_cut = int((counts > settings.max_candidates).sum())
    enough = math.ceil(1.2 * most / 100) * 100
    return (
        f"{num_cut:,} image{'s have' if num_cut > 1 else ' has'} more words than the {settings.max_candidates:,} that are found in "
        f"an image ({name} has {most:,}); postprocess.max_candidates={enough}"
    )


def _frame_of_reported(report: AuditReport | None) -> str | None:
    num_other = 0 if report is None else report.counts.get("other_frame", 0)
    if not num_other:
        return None
    return (
        f"{num_other:,} images fit only the other EXIF frame, the rest fit this one; if all were annotated upright set "
        "annotation_frame=upright of this split, otherwise turn the pixels by EXIF before annotating"
    )


def _frame_of_upright_words(measures: Measures) -> str | None:
    """Finds points of the other EXIF frame that lie inside the image: words stand on end only where EXIF turns it."""
    is_tall = measures.boxes[:, 1] > measures.boxes[:, 0]
    in_turned = measures.is_turned[measures.image_of_word]
    is_clear = measures.legible & (measures.aspects > 1.5)
    turned, others = is_tall[is_clear & in_turned], is_tall[is_clear & ~in_turned]
    if min(len(turned), len(others)) < 20 or turned.mean() < 0.6 or others.mean() > 0.4:
        return None
    return (
        f"in the {int(measures.is_turned.sum()):,} images that EXIF turns, {turned.mean():.0%} of the words are taller than wide, "
        f"elsewhere {others.mean():.0%}: their points seem to belong to the upright image; look at them, or set "
        "annotation_frame=upright of this split"
    )


def _large_images(measures: Measures, settings: CheckSettings) -> str | None:
    """Finds images that are much larger than needed. Training enlarges up to scale_max times."""
    pipeline = settings.pipeline
    needed = pipeline.image_size * (max(1.0, pipeline.augmentation.scale_max) if settings.training else 2.0)
    longest = measures.sizes.max(axis=1, initial=1).astype(np.float64)
    pixels = measures.sizes.astype(np.float64).prod(axis=1)
    total = float(pixels.sum())
    saved = 1 - float((pixels * np.minimum(1.0, needed / longest) ** 2).sum()) / total if total else 0.0
    share = float((longest > needed).mean()) if total else 0.0
    if saved < 0.5 or share < 0.25 or (pipeline.scaled_decode and not settings.keeps_pixels):
        return None
    advice = "" if settings.keeps_pixels else "pipeline.scaled_decode=true decodes fewer pixels on a CPU; or "
    return (
        f"{share:.0%} of the images are larger than {settings.size_key}={pipeline.image_size} needs, with "
        f"{pixels.mean() / 1e6:.1f} megapixels on average over all; {advice}train on copies of at most "
        f"{needed:,.0f} px, images and points scaled alike, which have {saved:.0%} fewer pixels"
    )


def advice_text(title: str, lines: Sequence[str]) -> Text:
    """Returns lines that say what to do, under a title; their `.plain` suits a log."""
    text = Text(title, "bold yellow")
    for line in lines:
        text.append(f"\n  - {line}", "yellow")
    return text
