"""The same pages and the same evaluator for all detectors."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.detectors.processes import Found
from ocr.config import TrainConfig
from ocr.datasets.schemas import DatasetConfig
from ocr.metrics.icdar import MatchCounts, TargetRegions, best_first, match_image
from ocr.metrics.pooled_counts import PooledSplit
from ocr.polygons import FloatArray
from ocr.splits import build_dataset

IOUS = (0.5, 0.7)


@dataclass(frozen=True)
class Pages:
    """Pages of a data set. Annotated files have no EXIF orientation, so stored and upright pixels are the same."""

    name: str
    paths: list[Path]
    polygons: list[list[FloatArray]]
    ignore: list[list[bool]]

    @classmethod
    def load(cls, name: str, folder: Path, at_most: int | None) -> "Pages":
        """Reads the validation split of a data set in the native format."""
        config = DatasetConfig(
            image_path=str(folder / "images/val"), annotation_path=str(folder / "jsons/val.json"), audit_memo="off"
        )
        manifest = build_dataset(config, TrainConfig(), training=False, before_training=False).manifest
        chosen = range(len(manifest))[:at_most]
        return cls(
            name,
            [Path(manifest.image_paths[index]).resolve() for index in chosen],
            [list(manifest.polygons.polygons_of(index)) for index in chosen],
            [manifest.polygons.ignore_of(index).tolist() for index in chosen],
        )

    def counts(self, found: Sequence[Found]) -> list[tuple[MatchCounts, ...]]:
        """Returns the counts of each page at each of `IOUS`, its detections matched best first."""
        counts = []
        for page, polygons, ignore in zip(found, self.polygons, self.ignore, strict=True):
            regions = TargetRegions.from_polygons(polygons, ignore)
            counts.append(match_image(best_first(page.polygons, page.scores), regions, IOUS))
        return counts


def scores_of(
    counts: Sequence[tuple[MatchCounts, ...]], firsts: Sequence[tuple[MatchCounts, ...]]
) -> dict[str, dict[str, float | None]]:
    """Returns the scores of a detector over all pages, by IoU: hmean, precision, recall, and standard errors.

    hmean_error is that of hmean, difference_error that of its difference to the first detector's on the same pages; both are None
    with fewer than two pages.

    Args:
        counts: of each page, from `Pages.counts`.
        firsts: those of the first detector.
    """
    pooled = PooledSplit({}, len(IOUS), num_runs=2)
    for index, pair in enumerate(zip(counts, firsts, strict=True)):
        pooled.add(index, *pair)
    scores: dict[str, dict[str, float | None]] = {}
    for iou, of_pages in zip(IOUS, pooled.whole, strict=True):
        error, difference = of_pages.errors(), of_pages.difference_errors()
        scores[str(iou)] = {
            **of_pages.scores()._asdict(),
            "hmean_error": None if error is None else error.hmean,
            "difference_error": None if difference is None else difference.hmean,
        }
    return scores
