"""Writes the report of an evaluation: findings -> pictures -> page."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ocr.atomic_write import write_durably
from ocr.config import ReportConfig
from ocr.datasets.base import ValidatedOCRDataset
from ocr.file_names import shown
from ocr.metrics.regions import Floats
from ocr.report.compare import Comparing, Comparison, OtherRun
from ocr.report.findings import Findings, Row
from ocr.report.marks import marks_of, reviewed
from ocr.report.overlay import Overlay
from ocr.report.page import ReportPage, ShownChange, ShownImage, page
from ocr.report.reviewed import ReviewedImage
from ocr.report.samples import as_jpeg
from ocr.report.worst import WorstMaps

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluated:
    """An evaluation that is done."""

    dataset: ValidatedOCRDataset
    images: Iterable[ReviewedImage]
    """Read once."""
    iou_thresholds: tuple[float, float]
    thresholds: Floats
    """Score thresholds of the reviews, one a step."""
    image_size: int
    """Longest side of the input."""
    other: OtherRun | None = None
    """The run to compare with, counted."""


class Found(NamedTuple):
    """The findings of an evaluation, and its comparison with the other run."""

    findings: Findings
    comparison: Comparison | None
    """None: there is no other run."""


def find(evaluated: Evaluated, config: ReportConfig, num_worst: int) -> Found:
    """Returns the findings and the comparison of an evaluation, with at least `num_worst` of the worst images."""
    manifest, num_thresholds = evaluated.dataset.manifest, len(evaluated.iou_thresholds)
    comparing = (
        Comparing(evaluated.other, manifest, num_thresholds, config.num_rows, config.num_images // 2)
        if evaluated.other is not None
        else None
    )

    def compared() -> Iterator[ReviewedImage]:
        for image in evaluated.images:
            if comparing is not None:
                comparing.add(image)
            yield image

    findings = Findings.of(
        compared(),
        manifest,
        evaluated.thresholds,
        evaluated.image_size,
        max(num_worst, config.num_images),
        config.num_rows,
    )
    return Found(findings, None if comparing is None else comparing.comparison())


def shown_images(evaluated: Evaluated, findings: Findings, config: ReportConfig, maps: WorstMaps) -> list[ShownImage]:
    """Returns the pictures of the worst images."""
    found = []
    for image in findings.worst[: config.num_images]:
        read = _read(evaluated.dataset, image.index, config.picture_side)
        if read is None:
            continue
        jpeg, size = read
        path = maps.path_of(image.index)
        found.append(ShownImage(Row.of(image), jpeg, overlay_of(evaluated, image, size, path)))
    return found


def overlay_of(evaluated: Evaluated, image: ReviewedImage, size: tuple[int, int], png: Path | None = None) -> Overlay:
    """Returns what is drawn over an image.

    Args:
        size: (H, W) of the upright image.
        png: file of its probability map, which may be missing.
    """
    below = image.below()
    return Overlay(
        size=size,
        marks=list(
            marks_of(image.review, image.detections(), evaluated.dataset.manifest.polygons.polygons_of(image.index))
        ),
        below=list(zip(below.polygons, below.scores.tolist(), strict=True)),
        png=png.read_bytes() if png is not None and png.is_file() else None,
    )


def shown_changes(evaluated: Evaluated, comparison: Comparison, config: ReportConfig) -> list[ShownChange]:
    """Returns the pictures of the largest gains and losses, with the outlines of both runs."""
    pictured = {image.index: image for image in comparison.pictured}
    if evaluated.other is None or not pictured:
        return []
    polygons = evaluated.dataset.manifest.polygons
    there = {}
    for index, detections in evaluated.other.detections(evaluated.dataset.manifest, pictured):
        truth = polygons.polygons_of(index)
        _, review = reviewed(detections, truth, polygons.ignore_of(index), evaluated.iou_thresholds)
        there[index] = list(marks_of(review, detections, truth, has_scores=False))
    found = []
    for image, change in zip(comparison.pictured, comparison.changes, strict=False):
        read = _read(evaluated.dataset, image.index, config.picture_side)
        if read is not None:
            jpeg, size = read
            here = overlay_of(evaluated, image, size)
            found.append(ShownChange(change, jpeg, here, Overlay(size, there[image.index])))
    return found


def write_report(path: Path, report: ReportPage) -> None:
    """Writes the page.

    Raises:
        StorageError: it cannot be written.
    """
    write_durably(path, page(report).encode(errors="replace"))
    log.info("the report is %s (%.1f MB); open it in a browser", path, path.stat().st_size / 1e6)


def _read(dataset: ValidatedOCRDataset, index: int, longest_side: int) -> tuple[bytes, tuple[int, int]] | None:
    """Returns an image as JPEG and the (H, W) of the original; None if it can no longer be read."""
    try:
        pixels = dataset.load_image(index).image_array
    except (OSError, ValueError) as error:
        log.warning("no picture of %s: %s", shown(dataset.manifest.filenames[index]), error)
        return None
    picture = Image.fromarray(np.asarray(pixels)).convert("RGB")
    picture.thumbnail((longest_side, longest_side))
    return as_jpeg(picture), (pixels.shape[0], pixels.shape[1])
