"""The same pages and the same evaluator for all detectors."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.detectors.processes import Found
from ocr.config import TrainConfig
from ocr.datasets.schemas import DatasetConfig
from ocr.metrics.icdar import MatchCounts, TargetRegions, best_first, match_image
from ocr.metrics.pooled_counts import PooledCounts
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
        manifest = build_dataset(config, TrainConfig(), training=False).manifest
        chosen = range(len(manifest))[:at_most]
        return cls(
            name,
            [Path(manifest.image_paths[index]).resolve() for index in chosen],
            [list(manifest.polygons.polygons_of(index)) for index in chosen],
            [manifest.polygons.ignore_of(index).tolist() for index in chosen],
        )

    def counts(self, found: Sequence[Found], iou: float) -> list[MatchCounts]:
        """Returns the counts of each page, its detections matched best first."""
        return [
            match_image(best_first(page.polygons, page.scores), TargetRegions.from_polygons(polygons, ignore), (iou,))[
                0
            ]
            for page, polygons, ignore in zip(found, self.polygons, self.ignore, strict=True)
        ]


def scores_of(counts: Sequence[MatchCounts], firsts: Sequence[MatchCounts]) -> dict[str, float | None]:
    """Returns hmean, precision and recall over all pages, and two standard errors, None with fewer than two pages.

    hmean_error is that of hmean, difference_error that of its difference to the first detector's on the same pages.
    """
    pooled = PooledCounts(num_runs=2)
    for pair in zip(counts, firsts, strict=True):
        pooled.add(*pair)
    error, difference = pooled.errors(), pooled.difference_errors()
    return {
        **pooled.scores()._asdict(),
        "hmean_error": None if error is None else error.hmean,
        "difference_error": None if difference is None else difference.hmean,
    }
