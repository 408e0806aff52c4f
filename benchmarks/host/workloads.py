"""The manifests that the host benchmark plans: receipts, receipts with three times the text, and scenes, in any number.

Planning reads no file, so a large manifest repeats the images of a small one.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ocr.datasets.audit import load_manifest
from ocr.datasets.manifest import Manifest
from ocr.datasets.schemas import DatasetConfig
from ocr.polygons import PolygonBatch
from ocr.synthetic.config import SyntheticConfig
from ocr.synthetic.data_set import draw_data_set

PLANNING_LIMITS_US = {"receipts": 60.0, "receipts, tripled": 110.0, "scenes": 40.0}
"""Largest CPU time of all parts of planning together, microseconds a sample; for about 57, 171 and 15 polygons an image."""
MAX_MEGAPIXELS = 100.0
MOST_POLYGONS = 60_000_000
"""Polygons of a manifest, which then takes 2.5 GB: a million receipts, but not with three times the text."""
NUM_DRAWN = 32
"""Images drawn of each kind where no folder is given."""


@dataclass(frozen=True)
class Workload:
    """A named split."""

    name: str
    manifest: Manifest

    @property
    def polygons_per_image(self) -> float:
        """Mean number of polygons of an image."""
        return self.manifest.polygons.num_polygons / len(self.manifest)

    def fitting(self, sizes: Sequence[int]) -> list[int]:
        """Returns the numbers of images whose polygons do not exceed `MOST_POLYGONS`."""
        return [size for size in sizes if size * self.polygons_per_image <= MOST_POLYGONS]


def build_workloads(receipts: Path | None, scenes: Path | None) -> list[Workload]:
    """Returns receipts, receipts with each polygon three times, and scenes.

    Args:
        receipts: folder with images/train and jsons/train.json; None: drawn ones.
        scenes: folder with images/val and jsons/val.json; None: drawn notices.
    """
    plain = _drawn(notice_share=0.0) if receipts is None else read_split(receipts, "train")
    few = _drawn(notice_share=1.0) if scenes is None else read_split(scenes, "val")
    return [
        Workload("receipts", plain),
        Workload("receipts, tripled", replace(plain, polygons=tripled(plain.polygons))),
        Workload("scenes", few),
    ]


def read_split(folder: Path, split: str) -> Manifest:
    """Returns the checked annotations of a folder in the layout of data=upstage."""
    config = DatasetConfig(
        image_path=str(folder / "images" / split), annotation_path=str(folder / "jsons" / f"{split}.json")
    )
    return load_manifest(config, max_megapixels=MAX_MEGAPIXELS)[0]


def tripled(polygons: PolygonBatch) -> PolygonBatch:
    """Returns the polygons with each image's own three times."""
    repeated = polygons.select(np.repeat(np.arange(len(polygons)), 3))
    return replace(repeated, polygon_starts=repeated.polygon_starts[::3])


def resized(manifest: Manifest, num_images: int) -> Manifest:
    """Returns a manifest of this many images, the given ones over and over."""
    times = -(-num_images // len(manifest))
    return Manifest(
        image_paths=(tuple(manifest.image_paths) * times)[:num_images],
        filenames=(tuple(manifest.filenames) * times)[:num_images],
        sample_ids=np.arange(num_images, dtype=np.int64),
        stored_sizes=np.tile(manifest.stored_sizes, (times, 1))[:num_images],
        orientations=np.tile(manifest.orientations, times)[:num_images],
        polygons=_resized_polygons(manifest.polygons, times, num_images),
        num_listed=num_images,
    )


def _resized_polygons(polygons: PolygonBatch, times: int, num_images: int) -> PolygonBatch:
    # Not `select`: for a million receipts its index arrays alone take 4 GB.
    polygon_starts = _repeated_starts(polygons.polygon_starts, times)[: num_images + 1]
    num_polygons = int(polygon_starts[-1])
    vertex_starts = _repeated_starts(polygons.vertex_starts, times)[: num_polygons + 1]
    return PolygonBatch(
        vertices=np.tile(polygons.vertices, (times, 1))[: int(vertex_starts[-1])],
        vertex_starts=vertex_starts,
        polygon_starts=polygon_starts,
        ignore=np.tile(polygons.ignore, times)[:num_polygons],
    )


def _repeated_starts(starts: np.ndarray, times: int) -> np.ndarray:
    offsets = np.arange(times, dtype=np.int64)[:, None] * starts[-1]
    return np.append((starts[:-1] + offsets).ravel(), times * starts[-1])


def _drawn(notice_share: float) -> Manifest:
    config = SyntheticConfig(
        num_train=1, num_val=NUM_DRAWN, notice_share=notice_share, blank_share=0, min_side=480, max_side=640
    )
    with tempfile.TemporaryDirectory() as folder:  # planning needs no files
        return read_split(draw_data_set(config, Path(folder) / "drawn", num_workers=1), "val")
