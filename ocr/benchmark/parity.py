"""Whether a row gives what it should: pixels, polygons and maps against an oracle that shares no code with the loaders."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from dali_pipelines.source import PlannedSample
from ocr.benchmark.source import InputBatch
from ocr.datasets.base import ValidatedOCRDataset, polygons_for_training
from ocr.datasets.plan import EpochPlan
from ocr.polygons import PolygonBatch
from ocr.targets import TargetMaps
from ocr.targets.reference import make_targets_reference

POLYGON_TOLERANCE = 1e-2
"""Pixels; float32 at a coordinate of some thousands."""
MAP_TOLERANCE = 2**-10
"""Threshold maps of a cache are float16."""
MAP_PIXELS = 1e-4
"""Share of a map's pixels that may differ by more: those whose distance to the border is D to the last digit."""


@dataclass(frozen=True)
class Parity:
    """How far a row is from the oracle."""

    mean_levels: float
    """Mean absolute difference of the pixels, in levels of 255."""
    max_levels: float
    polygons_equal: bool | None
    """None: the row moves no polygons."""
    maps_equal: bool | None
    """None: no target maps were asked for."""
    in_order: bool
    """The images came in the order of the files or of the plan."""


def oracle_pixels(path: str, sample: PlannedSample, size: int, *, training: bool) -> npt.NDArray[np.float64]:
    """(size, size, 3) RGB levels of a planned sample, by Pillow, step by step in the words of the plan: turn upright, resize the
    region with an antialiased triangle filter whose border pixels are repeated, warp by the matrix, recolour."""
    with Image.open(io.BytesIO(Path(path).read_bytes())) as opened:
        upright = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    height, width = sample.resized_size
    x0, y0, x1, y1 = (float(value) for value in sample.region_xyxy)
    margin = 2 + math.ceil(max((x1 - x0) / width, (y1 - y0) / height, 1.0))
    padded = np.pad(upright, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    box = (x0 + margin, y0 + margin, x1 + margin, y1 + margin)
    resized = np.asarray(Image.fromarray(padded).resize((width, height), Image.Resampling.BILINEAR, box))
    if not training:
        whole = np.zeros((size, size, 3))
        whole[:height, :width] = resized
        return whole
    # OpenCV's pixel centres lie at whole numbers, the plan's at +0.5: the half pixel is taken off on both sides.
    shift = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    matrix = np.linalg.inv(shift) @ sample.input_from_resized @ shift
    warped = cv2.warpAffine(resized.astype(np.float32), matrix[:2], (size, size), flags=cv2.INTER_LINEAR)
    colours = warped.round() @ sample.colour_matrix[:, :3].T + sample.colour_matrix[:, 3]
    return np.clip(colours, 0, 255).round()


def compare(
    batches: Sequence[InputBatch],
    polygons_of_batches: Sequence[PolygonBatch] | None,
    plan: EpochPlan,
    dataset: ValidatedOCRDataset,
) -> Parity:
    """What a row gave in one epoch, against what the plan says; pixels, polygons and maps of its first and last batch.

    Args:
        batches: all of an epoch, or the first ones.
        polygons_of_batches: the row's own polygons, input frame; None: it moves none.
    """
    planner = dataset.transform
    size = planner.input_size
    mean, std = np.array(planner.config.mean), np.array(planner.config.std)
    planned = [sample for step in range(len(plan)) for sample in plan.batch(step)]
    sample_of = {sample.index: sample for sample in planned}
    pixels, maps, polygons = [], [], []
    for place in sorted({0, len(batches) - 1}):
        batch = batches[place]
        samples = [sample_of[index] for index in batch.indices]
        levels = batch.images.float().cpu().permute(0, 2, 3, 1).double().numpy() * std + mean
        for image, sample in zip(levels, samples, strict=True):
            path = dataset.manifest.image_paths[sample.index]
            pixels.append(np.abs(image - oracle_pixels(path, sample, size, training=planner.training)))
        if polygons_of_batches is not None:
            polygons.append(_moved_as_planned(polygons_of_batches[place], samples, dataset.manifest.polygons))
        if batch.targets is not None:
            expected = polygons_for_training(dataset.manifest, samples, planner)
            maps.append(_agree(batch.targets, make_targets_reference(expected, (size, size), dataset.targets)))
    indices = [index for batch in batches for index in batch.indices]
    return Parity(
        mean_levels=float(np.mean([difference.mean() for difference in pixels])),
        max_levels=float(max(difference.max() for difference in pixels)),
        polygons_equal=all(polygons) if polygons_of_batches is not None else None,
        maps_equal=all(maps) if maps else None,
        in_order=indices == [sample.index for sample in planned][: len(indices)],
    )


def _moved_as_planned(found: PolygonBatch, samples: Sequence[PlannedSample], originals: PolygonBatch) -> bool:
    """Whether each vertex is where the sample's matrix takes it."""
    for image, sample in enumerate(samples):
        expected = [
            (np.c_[polygon, np.ones(len(polygon))] @ sample.input_from_original.T)[:, :2]
            for polygon in originals.polygons_of(sample.index)
        ]
        moved = found.polygons_of(image)
        if len(moved) != len(expected) or not all(
            np.allclose(one, other, atol=POLYGON_TOLERANCE) for one, other in zip(moved, expected, strict=True)
        ):
            return False
    return True


def _agree(found: TargetMaps, expected: TargetMaps) -> bool:
    for name in ("shrink_map", "shrink_mask", "thresh_map", "thresh_mask"):
        differs = (getattr(found, name).float().cpu() - getattr(expected, name)).abs() > MAP_TOLERANCE
        if differs.float().mean().item() > MAP_PIXELS:
            return False
    return True
