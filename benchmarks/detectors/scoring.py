"""The same pages and the same evaluator for all detectors."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.detectors.processes import Found
from ocr.config import TrainConfig
from ocr.datasets.schemas import DatasetConfig
from ocr.metrics.icdar import ICDARMetric
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

    def scores(self, found: Sequence[Found], iou: float) -> dict[str, float]:
        """Returns hmean, precision and recall of the results of all pages, matched best first."""
        metric = ICDARMetric(iou)
        metric.update([page.polygons for page in found], self.polygons, self.ignore, [page.scores for page in found])
        return {name: float(value) for name, value in metric.compute().items()}
