"""Whether a row gives what it should: pixels, polygons and maps against an oracle of its own code. Of the plan it takes the random
numbers of training, and the rule for text that a crop cuts away; whole images it works out from their files alone."""

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

from benchmarks.loaders.source import InputBatch
from dali_pipelines.geometry import Matrix
from dali_pipelines.source import PlannedSample
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.plan import EpochPlan, SamplePlanner, hide_cut_polygons
from ocr.polygons import PolygonBatch
from ocr.targets.reference import make_targets_reference
from ocr.targets.target_maps import TargetMaps

MAPS = ("shrink_map", "shrink_mask", "thresh_map", "thresh_mask")
NUM_MAPS = 3
"""Images whose maps are compared, and that of the last batch: the exact reference is slow."""
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
    dtype: str
    """Of the images."""


@dataclass(frozen=True)
class Oracle:
    """What should become of one image, worked out from its file, its size and the words of the plan."""

    pixels: npt.NDArray[np.float64]
    """(S, S, 3) RGB levels."""
    input_from_original: Matrix
    """(3, 3)."""


def whole_image(path: str, size: int) -> Oracle:
    """Turned upright, longest side to `size` by an antialiased triangle filter that sees the border pixels again beyond the
    border, on black right and below."""
    upright = _upright(path)
    height, width = upright.shape[:2]
    scale = size / max(height, width)
    resized_height, resized_width = (max(1, round(side * scale)) for side in (height, width))
    pixels = np.zeros((size, size, 3))
    pixels[:resized_height, :resized_width] = _resized(upright, (0, 0, width, height), (resized_height, resized_width))
    return Oracle(pixels, np.diag([resized_width / width, resized_height / height, 1]))


def training_crop(path: str, sample: PlannedSample, size: int) -> Oracle:
    """The region that the plan names, resized as a whole image, then warped and recoloured by its numbers."""
    x0, y0, x1, y1 = (float(value) for value in sample.region_xyxy)
    height, width = sample.resized_size
    resized = _resized(_upright(path), (x0, y0, x1, y1), (height, width))
    # OpenCV's pixel centres lie at whole numbers, the plan's at +0.5: the half pixel is taken off on both sides.
    shift = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    matrix = np.linalg.inv(shift) @ sample.input_from_resized @ shift
    warped = cv2.warpAffine(resized.astype(np.float32), matrix[:2], (size, size), flags=cv2.INTER_LINEAR)
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


def compare(
    batches: Sequence[InputBatch],
    polygons_of_batches: Sequence[PolygonBatch] | None,
    plan: EpochPlan,
    dataset: ValidatedOCRDataset,
) -> Parity:
    """What a row gave in one epoch, against the oracle: all images of its first batch and one of each other.

    Args:
        batches: all of an epoch, or the first ones.
        polygons_of_batches: the row's own polygons, input frame; None: it moves none.
        dataset: of image files.
    """
    planner = dataset.planner
    size = planner.input_size
    mean, std = np.array(planner.config.mean), np.array(planner.config.std)
    planned = [sample for step in range(len(plan)) for sample in plan.batch(step)]
    sample_of = {sample.index: sample for sample in planned}
    pixels: list[npt.NDArray[np.float64]] = []
    maps: list[bool] = []
    polygons: list[bool] = []
    for place, batch in enumerate(batches):
        slots = range(len(batch.indices)) if place == 0 else [place % len(batch.indices)]
        for slot in slots:
            sample = sample_of[batch.indices[slot]]
            path = dataset.manifest.image_paths[sample.index]
            oracle = training_crop(path, sample, size) if planner.training else whole_image(path, size)
            expected = _polygons(dataset.manifest.polygons.select([sample.index]), oracle, planner)
            levels = batch.images[slot].float().cpu().permute(1, 2, 0).double().numpy() * std + mean
            pixels.append(np.abs(levels - oracle.pixels))
            if polygons_of_batches is not None:
                polygons.append(_same(polygons_of_batches[place].select([slot]), expected))
            if batch.targets is not None and (len(maps) < NUM_MAPS or place == len(batches) - 1):
                found = {name: getattr(batch.targets, name)[slot : slot + 1] for name in MAPS}
                maps.append(_agree(found, make_targets_reference(expected, (size, size), dataset.targets)))
    indices = [index for batch in batches for index in batch.indices]
    return Parity(
        mean_levels=float(np.mean([difference.mean() for difference in pixels])),
        max_levels=float(max(difference.max() for difference in pixels)),
        polygons_equal=all(polygons) if polygons_of_batches is not None else None,
        maps_equal=all(maps) if maps else None,
        in_order=indices == [sample.index for sample in planned][: len(indices)],
        dtype=str(batches[0].images.dtype).removeprefix("torch."),
    )


def _polygons(originals: PolygonBatch, oracle: Oracle, planner: SamplePlanner) -> PolygonBatch:
    """Of one image, each vertex where the matrix takes it; what a crop cuts away is marked as the plan's rule says."""
    vertices = np.c_[originals.vertices, np.ones(len(originals.vertices))] @ oracle.input_from_original.T
    moved = replace(originals, vertices=vertices[:, :2].astype(np.float32))
    if not planner.training:
        return moved
    return hide_cut_polygons(moved, planner.config.augmentation.min_visible, planner.input_size)


def _same(found: PolygonBatch, expected: PolygonBatch) -> bool:
    return (
        found.vertices.shape == expected.vertices.shape
        and np.array_equal(found.vertex_starts, expected.vertex_starts)
        and np.array_equal(found.ignore, expected.ignore)
        and np.allclose(found.vertices, expected.vertices, atol=POLYGON_TOLERANCE)
    )


def _agree(found: Mapping[str, torch.Tensor], expected: TargetMaps) -> bool:
    for name in MAPS:
        differs = (found[name].float().cpu() - getattr(expected, name)).abs() > MAP_TOLERANCE
        if differs.float().mean().item() > MAP_PIXELS:
            return False
    return True
