"""Compares pixels, polygons and maps of a row with an oracle of independent code (Pillow, and the exact target maps).

Whole images follow from their files alone. Training crops use the plan's random numbers and its rule for text cut by a crop.
"""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps

from benchmarks.loaders.row_loader import InputBatch
from dali_pipelines.geometry import Matrix, is_affine
from dali_pipelines.source import PlannedSample
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.plan import EpochPlan, SamplePlanner
from ocr.datasets.reference_plan import hide_cut_polygons
from ocr.polygons import PolygonBatch
from ocr.targets.reference import make_targets_reference
from ocr.targets.target_maps import TargetMaps

MAPS = ("shrink_map", "shrink_mask", "thresh_map", "thresh_mask")
NUM_MAPS = 3
"""Number of images whose maps are compared, besides one of the last batch: the exact reference is slow."""
POLYGON_TOLERANCE = 1e-2
"""Largest difference between coordinates that counts as equal, in pixels: the resolution of float32 at some thousands."""
MAP_TOLERANCE = 2**-10
"""Largest difference between map values that counts as equal: caches hold threshold maps as float16."""
MAP_PIXELS = 1e-4
"""Share of a map's pixels that may differ by more: rounding decides about pixels at distance D from the border."""


@dataclass(frozen=True)
class Parity:
    """Distance of a row's output from the oracle."""

    mean_levels: float
    """Mean absolute difference of the pixels, in levels of 255."""
    max_levels: float
    polygons_equal: bool | None
    """None: the row moves no polygons."""
    maps_equal: bool | None
    """None: the level has no target maps."""
    in_order: bool
    """Whether the images came in the order of the plan."""
    dtype: str
    """Type of the images."""
    resize_filter: str = "unknown"


@dataclass(frozen=True)
class Oracle:
    """The correct input made of one image."""

    pixels: npt.NDArray[np.float64]
    """(S, S, 3) RGB levels."""
    input_from_original: Matrix
    """(3, 3)"""


def whole_image(path: str, size: int) -> Oracle:
    """Returns the image upright, its longest side resized to `size`, on black right and below. The filter is an antialiased
    triangle that sees the border pixels repeated beyond the border."""
    upright = _upright(path)
    height, width = upright.shape[:2]
    scale = size / max(height, width)
    resized_height, resized_width = (max(1, round(side * scale)) for side in (height, width))
    pixels = np.zeros((size, size, 3))
    pixels[:resized_height, :resized_width] = _resized(upright, (0, 0, width, height), (resized_height, resized_width))
    return Oracle(pixels, np.diag([resized_width / width, resized_height / height, 1]))


def training_crop(path: str, sample: PlannedSample, size: int) -> Oracle:
    """Returns the planned region, resized as a whole image is, then warped and recoloured by the planned matrices."""
    x0, y0, x1, y1 = (float(value) for value in sample.region_xyxy)
    height, width = sample.resized_size
    resized = _resized(_upright(path), (x0, y0, x1, y1), (height, width))
    # Pixel centres lie at whole numbers in OpenCV, at +0.5 in the plan: the half pixel is taken off on both sides.
    shift = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    matrix = np.linalg.inv(shift) @ sample.input_from_resized @ shift
    levels = resized.astype(np.float32)
    if is_affine(matrix):
        warped = cv2.warpAffine(levels, matrix[:2], (size, size), flags=cv2.INTER_LINEAR)
    else:
        warped = cv2.warpPerspective(levels, matrix, (size, size), flags=cv2.INTER_LINEAR)
    colours = warped.round() @ sample.colour_matrix[:, :3].T + sample.colour_matrix[:, 3]
    scale_x, scale_y = width / (x1 - x0), height / (y1 - y0)
    resized_from_original = np.array([[scale_x, 0, -scale_x * x0], [0, scale_y, -scale_y * y0], [0, 0, 1]])
    return Oracle(np.clip(colours, 0, 255).round(), sample.input_from_resized @ resized_from_original)


def _upright(path: str) -> npt.NDArray[np.uint8]:
    with Image.open(io.BytesIO(Path(path).read_bytes())) as opened:
        return np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))


def _resized(
    image: npt.NDArray[np.uint8], region: tuple[float, float, float, float], size: tuple[int, int]
) -> npt.NDArray[np.uint8]:
    x0, y0, x1, y1 = region
    height, width = size
    margin = 2 + math.ceil(max((x1 - x0) / width, (y1 - y0) / height, 1.0))
    padded = np.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    box = (x0 + margin, y0 + margin, x1 + margin, y1 + margin)
    return np.asarray(Image.fromarray(padded).resize((width, height), Image.Resampling.BILINEAR, box))


def compare(batches: Sequence[InputBatch], plan: EpochPlan, dataset: ValidatedOCRDataset) -> Parity:
    """Returns how far the batches of one epoch are from the oracle: all images of the first batch, one of each other batch.

    Args:
        batches: all batches of an epoch, or its first ones.
        plan: plan of that epoch.
        dataset: data set that the batches were made from.
    """
    samples = [sample for step in range(len(plan)) for sample in plan.batch(step)]
    sample_of = {sample.index: sample for sample in samples}
    found: list[_Differences] = []
    num_maps = 0
    for place, batch in enumerate(batches):
        is_last = place == len(batches) - 1
        polygons = batch.move_polygons() if batch.move_polygons is not None else None
        for slot in range(len(batch.indices)) if place == 0 else [place % len(batch.indices)]:
            with_maps = batch.targets is not None and (num_maps < NUM_MAPS or is_last)
            num_maps += with_maps
            found.append(_differences(batch, slot, polygons, sample_of[batch.indices[slot]], dataset, with_maps))
    indices = [index for batch in batches for index in batch.indices]
    return Parity(
        mean_levels=float(np.mean([each.mean_levels for each in found])),
        max_levels=max(each.max_levels for each in found),
        polygons_equal=_all([each.polygons_equal for each in found]),
        maps_equal=_all([each.maps_equal for each in found]),
        in_order=indices == [sample.index for sample in samples][: len(indices)],
        dtype=str(batches[0].images.dtype).removeprefix("torch."),
    )


@dataclass(frozen=True)
class _Differences:
    """One image against the oracle."""

    mean_levels: float
    max_levels: float
    polygons_equal: bool | None
    maps_equal: bool | None


def _differences(
    batch: InputBatch,
    slot: int,
    polygons: PolygonBatch | None,
    sample: PlannedSample,
    dataset: ValidatedOCRDataset,
    with_maps: bool,
) -> _Differences:
    planner, size = dataset.planner, dataset.planner.input_size
    path = dataset.manifest.image_paths[sample.index]
    oracle = training_crop(path, sample, size) if planner.training else whole_image(path, size)
    expected = _polygons(dataset.manifest.polygons.select([sample.index]), oracle, planner)
    mean, std = np.array(planner.config.mean), np.array(planner.config.std)
    levels = batch.images[slot].float().cpu().permute(1, 2, 0).double().numpy() * std + mean
    difference = np.abs(levels - oracle.pixels)
    maps_equal = None
    if with_maps:
        given = {name: getattr(batch.targets, name)[slot : slot + 1] for name in MAPS}
        maps_equal = _maps_agree(given, make_targets_reference(expected, (size, size), dataset.targets))
    polygons_equal = _polygons_agree(polygons.select([slot]), expected) if polygons is not None else None
    return _Differences(float(difference.mean()), float(difference.max()), polygons_equal, maps_equal)


def _all(equal: Sequence[bool | None]) -> bool | None:
    compared = [each for each in equal if each is not None]
    return all(compared) if compared else None


def _polygons(originals: PolygonBatch, oracle: Oracle, planner: SamplePlanner) -> PolygonBatch:
    """Returns the polygons of one image moved by the oracle's matrix; the plan's rule ignores those that a crop cuts."""
    vertices = np.c_[originals.vertices, np.ones(len(originals.vertices))] @ oracle.input_from_original.T
    moved = replace(originals, vertices=(vertices[:, :2] / vertices[:, 2:]).astype(np.float32))
    if not planner.training:
        return moved
    return hide_cut_polygons(moved, planner.config.augmentation.min_visible, planner.input_size)


def _polygons_agree(found: PolygonBatch, expected: PolygonBatch) -> bool:
    return (
        found.vertices.shape == expected.vertices.shape
        and np.array_equal(found.vertex_starts, expected.vertex_starts)
        and np.array_equal(found.ignore, expected.ignore)
        and np.allclose(found.vertices, expected.vertices, atol=POLYGON_TOLERANCE)
    )


def _maps_agree(found: Mapping[str, torch.Tensor], expected: TargetMaps) -> bool:
    for name in MAPS:
        differs = (found[name].float().cpu() - getattr(expected, name)).abs() > MAP_TOLERANCE
        if differs.float().mean().item() > MAP_PIXELS:
            return False
    return True
