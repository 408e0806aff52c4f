"""Times post-processing and metrics on the host: processor time per image, and how much of it is under the GIL."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import cv2
import numpy as np
import torch

from benchmarks.host.timing import NUM_CORES, HostTime, time_in_turns
from benchmarks.report import Table
from dali_pipelines.config import PipelineConfig
from dali_pipelines.geometry import letterbox_size, resized_from_region
from ocr.datasets.audit import load_manifest
from ocr.datasets.manifest import Manifest
from ocr.datasets.schemas import DatasetConfig
from ocr.metrics.cleval import CharacterTargets, count_characters
from ocr.metrics.icdar import TargetRegions, match_image
from ocr.polygons import PolygonBatch
from ocr.postprocess.boxes import Detections, detect_levels, moved_detections
from ocr.postprocess.config import PostprocessConfig
from ocr.postprocess.levels import Levels, to_levels
from ocr.targets.config import TargetConfig
from ocr.targets.maps import make_targets

TARGETS = TargetConfig(shrink_ratio=0.6, min_side=4)
SIZES = (640, 1600)


@dataclass(frozen=True)
class Page:
    """One validation image: the map of a good network, and the annotations."""

    levels: Levels
    """(Hm, Wm) of the image's part of the input."""
    original_from_input: np.ndarray
    original_size: tuple[int, int]
    regions: TargetRegions
    characters: CharacterTargets

    @classmethod
    def of_image(cls, manifest: Manifest, index: int, size: int, noise: torch.Generator) -> "Page":
        """Returns an image whose map is its target map, blurred, with uneven borders and with noise.

        Args:
            size: longest side of the input.
        """
        height, width = (int(side) for side in manifest.original_sizes[index])
        resized_size = letterbox_size((height, width), size)
        input_from_original = resized_from_region(np.array([0, 0, width, height], np.float32), resized_size)
        polygons, ignore = manifest.polygons.polygons_of(index), manifest.polygons.ignore_of(index)
        batch = PolygonBatch.from_lists([polygons], [ignore.tolist()]).transformed(input_from_original[None])
        padded = tuple(-(-side // 32) * 32 for side in resized_size)
        sharp = make_targets(batch, (padded[0], padded[1]), TARGETS).shrink_map[0].numpy()
        blurred = cv2.GaussianBlur(sharp, (0, 0), 1.0)
        waves = cv2.GaussianBlur(torch.randn(blurred.shape, generator=noise).numpy(), (0, 0), 2.0)
        probabilities = torch.from_numpy(blurred).sub(0.4).mul(12).add(torch.from_numpy(waves), alpha=6).sigmoid()
        levels = to_levels(probabilities, PostprocessConfig().bin_thresh).numpy()
        return cls(
            np.ascontiguousarray(levels[: resized_size[0], : resized_size[1]]),
            np.linalg.inv(input_from_original),
            (height, width),
            TargetRegions.from_polygons(polygons, ignore),
            CharacterTargets.from_polygons(polygons, ignore),
        )

    def detect(self, config: PostprocessConfig) -> Detections:
        """Returns the text of the map in pixels of the image, as a validation does."""
        found = detect_levels(
            self.levels, map_stride=TARGETS.map_stride, shrink_ratio=TARGETS.shrink_ratio, config=config
        )
        return moved_detections(found, self.original_from_input, self.original_size)


@dataclass(frozen=True)
class Row:
    """Mean times per image, in milliseconds."""

    data: str
    size: int
    output: Literal["quad", "polygon"]
    regions: float
    """Detections per image."""
    polygons: HostTime
    """Post-processing."""
    icdar: HostTime
    cleval: HostTime

    def total(self, with_cleval: bool) -> HostTime:
        """Returns the time of post-processing and metric."""
        parts = [self.polygons, self.icdar, *([self.cleval] if with_cleval else [])]
        return HostTime(*map(sum, zip(*parts, strict=True)))

    def images_per_second(self, with_cleval: bool) -> float:
        """Returns the highest rate of `HostTime`."""
        return self.total(with_cleval).images_per_second()


def time_host(folders: Sequence[Path], num_images: int, repeats: int, sizes: Sequence[int] = SIZES) -> dict[str, Any]:
    """Returns `rows`: the times of each data set, size and output.

    Args:
        folders: data sets in the layout of data=upstage, with images/val and jsons/val.json.
        num_images: largest number of images of each.
        repeats: number of measurements; processor times are their median.
        sizes: longest sides of the input.
    """
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    rows = []
    for folder in folders:
        config = DatasetConfig(
            image_path=str(folder / "images/val"),
            annotation_path=str(folder / "jsons/val.json"),
            check_pixels=False,
        )
        manifest, _ = load_manifest(config, max_megapixels=PipelineConfig().max_megapixels)
        for size in sizes:
            noise = torch.Generator().manual_seed(0)
            pages = [Page.of_image(manifest, index, size, noise) for index in range(min(num_images, len(manifest)))]
            rows += [_time_pages(folder.name, size, output, pages, repeats) for output in ("quad", "polygon")]
    return {"rows": [asdict(row) | _rates(row) for row in rows], "images": num_images, "repeats": repeats}


def _rates(row: Row) -> dict[str, float]:
    return {
        "images_per_second": row.images_per_second(with_cleval=False),
        "images_per_second_with_cleval": row.images_per_second(with_cleval=True),
    }


def _time_pages(data: str, size: int, output: Any, pages: list[Page], repeats: int) -> Row:
    config = PostprocessConfig(output=output)
    found = [page.detect(config).polygons for page in pages]

    def polygons() -> None:
        for page in pages:
            page.detect(config)

    def icdar() -> None:
        for page, detected in zip(pages, found, strict=True):
            match_image(detected, page.regions)

    def cleval() -> None:
        for page, detected in zip(pages, found, strict=True):
            count_characters(detected, page.characters)

    timings = time_in_turns({"polygons": polygons, "icdar": icdar, "cleval": cleval}, len(pages), repeats)
    times = {part: timing.host_time for part, timing in timings.items()}
    return Row(data, size, output, mean(map(len, found)), **times)


def host_table(results: Mapping[str, Any]) -> Table:
    """Returns one line per data set, size and output. `results` holds those of `time_host` and `provenance`."""
    parts = ("polygons", "icdar", "cleval")
    rows = [
        [
            f"{row['data']} {row['size']} {row['output']}",
            f"{row['regions']:.0f}",
            *(f"{row[part][0]:.2f} / {row[part][1]:.2f}" for part in parts),
            f"{row['images_per_second']:,.0f}",
            f"{row['images_per_second_with_cleval']:,.0f}",
        ]
        for row in results["rows"]
    ]
    columns = ("data", "regions", "polygons", "IoU", "CLEval", "images/s", "with CLEval")
    notes = [f"images/s: the smaller of {NUM_CORES} / processor seconds and 1 / seconds under the GIL"]
    return Table("Host time per image: ms of processor time / ms under the GIL", columns, rows, notes)
