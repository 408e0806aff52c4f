"""Plans samples one at a time, slowly and readably: the reference that the tests compare `compiled_plan` with."""

import numpy as np
import numpy.typing as npt

from dali_pipelines import geometry
from dali_pipelines.config import AugmentationConfig, PipelineConfig
from dali_pipelines.geometry import Matrix
from dali_pipelines.source import PlannedSample
from ocr.datasets.compiled_plan import LUMA, REGION_MARGIN
from ocr.datasets.manifest import Manifest
from ocr.datasets.philox import AUGMENTATION_STREAM, PERSPECTIVE_STREAM, generator
from ocr.datasets.plan import IDENTITY_COLOUR, PASS_SHIFT, SamplePlanner
from ocr.polygons import FloatArray, PolygonBatch


def plan_sample(
    planner: SamplePlanner, manifest: Manifest, index: int, epoch: int, number_of_pass: int = 0
) -> PlannedSample:
    """Returns the plan of one image, as `planner.plan_batch` makes it for many."""
    height, width = (int(side) for side in manifest.original_sizes[index])
    if not planner.training:
        return _letterbox(index, (height, width), planner.config.image_size)
    sample_id = int(manifest.sample_ids[index]) + (number_of_pass << PASS_SHIFT)
    rng, perspective_rng = (
        generator(planner.seed, epoch, sample_id, stream) for stream in (AUGMENTATION_STREAM, PERSPECTIVE_STREAM)
    )
    return _augment(index, (height, width), manifest.polygons.select([index]), planner.config, rng, perspective_rng)


def polygons_of_sample(planner: SamplePlanner, manifest: Manifest, sample: PlannedSample) -> PolygonBatch:
    """Returns the polygons of one image, as `planner.input_polygons` does for many."""
    polygons_input = manifest.polygons.select([sample.index]).transformed(sample.input_from_original[None])
    if not planner.training:
        return polygons_input
    return hide_cut_polygons(polygons_input, planner.config.augmentation.min_visible, planner.input_size)


def _letterbox(index: int, original_size: tuple[int, int], image_size: int) -> PlannedSample:
    """Returns the deterministic plan of evaluation: longest side to `image_size`, placed top left."""
    height, width = original_size
    region = np.array([0, 0, width, height], np.float32)
    resized_size = geometry.letterbox_size(original_size, image_size)
    return PlannedSample(
        index=index,
        is_padding=False,
        region_xyxy=region,
        resized_size=resized_size,
        input_from_resized=np.eye(3),
        input_from_original=geometry.resized_from_region(region, resized_size),
        colour_matrix=IDENTITY_COLOUR,
    )


def _augment(
    index: int,
    original_size: tuple[int, int],
    polygons_original: PolygonBatch,
    config: PipelineConfig,
    rng: np.random.Generator,
    perspective_rng: np.random.Generator,
) -> PlannedSample:
    augmentation, crop_size = config.augmentation, config.crop_size
    height, width = original_size
    angle = rng.uniform(-1, 1) * augmentation.rotation_degrees
    log_scale = rng.uniform(np.log(augmentation.scale_min), np.log(augmentation.scale_max))
    scale = config.image_size / max(original_size) * float(np.exp(log_scale))
    mirrored = rng.random() < augmentation.flip_probability
    direction, strength = 2 * np.pi * perspective_rng.random(), augmentation.perspective * perspective_rng.random()
    limit = _slant_limit(original_size, polygons_original, scale, augmentation.perspective, crop_size)
    slant = strength * limit * np.array([np.cos(direction), np.sin(direction)])
    placed_from_original = (
        geometry.slant(*slant)
        @ geometry.rotation(angle)
        @ geometry.scaling(-scale if mirrored else scale, scale)
        @ geometry.translation(-width / 2, -height / 2)
    )
    boxes_placed = bounding_boxes(polygons_original.transformed(placed_from_original[None]))
    extent = _extent((height * scale, width * scale), slant)
    corner = _choose_crop(boxes_placed, extent, augmentation, crop_size, rng)
    input_from_original = geometry.translation(-corner[0], -corner[1]) @ placed_from_original
    resolution = scale * _magnification(1 - float(slant @ (corner + crop_size / 2)), augmentation.perspective)
    region = _needed_region(input_from_original, original_size, crop_size, resolution)
    region_width, region_height = region[2] - region[0], region[3] - region[1]
    resized_size = max(1, round(region_height * resolution)), max(1, round(region_width * resolution))
    return PlannedSample(
        index=index,
        is_padding=False,
        region_xyxy=region,
        resized_size=resized_size,
        input_from_resized=input_from_original @ np.linalg.inv(geometry.resized_from_region(region, resized_size)),
        input_from_original=input_from_original,
        colour_matrix=_colour_matrix(augmentation, rng),
    )


def bounding_boxes(polygons: PolygonBatch) -> FloatArray:
    """Returns the axis-aligned boxes x0, y0, x1, y1, (P, 4)."""
    if not polygons.num_polygons:
        return np.zeros((0, 4), np.float32)
    first = polygons.vertex_starts[:-1]
    lower = np.minimum.reduceat(polygons.vertices, first)
    upper = np.maximum.reduceat(polygons.vertices, first)
    return np.concatenate([lower, upper], axis=1)


def visible_fractions(boxes: FloatArray, corners: npt.ArrayLike, crop_size: int) -> npt.NDArray[np.float64]:
    """Returns the visible fraction (C, P) of each box (P, 4) in each square crop, given by its top left corner (C, 2)."""
    corners = np.asarray(corners, np.float64)[:, None]
    lower = np.maximum(boxes[:, :2], corners)
    upper = np.minimum(boxes[:, 2:], corners + crop_size)
    visible = np.prod(np.clip(upper - lower, 0, None), axis=-1)
    return visible / np.maximum(np.prod(boxes[:, 2:] - boxes[:, :2], axis=-1), 1e-6)


def hide_cut_polygons(polygons_input: PolygonBatch, min_visible: float, crop_size: int) -> PolygonBatch:
    """Returns the polygons; those with a visible fraction below `min_visible` become don't-care."""
    visible = visible_fractions(bounding_boxes(polygons_input), np.zeros((1, 2)), crop_size)[0]
    return polygons_input.with_ignore(polygons_input.ignore | (visible < min_visible))


def _slant_limit(
    original_size: tuple[int, int], polygons: PolygonBatch, scale: float, perspective: float, crop_size: int
) -> float:
    """Returns the length of the slant g at full strength, where g = strength * limit * p, for the perspective p < 1/2.

    Points are taken about the image's centre. The perspective divides a point x of the scaled, rotated image by 1 + g . x. The way
    back divides a point y of the result by 1 - g . y, which is the reciprocal of the former. Both stay positive where it matters:

    1. |g| <= p / `farthest`, so no point of the image and no vertex is divided by less than 1 - p or more than 1 + p. Nothing comes
       near the horizon, where the divisor is 0.
    2. A crop lies within the image's extent in perspective, or holds that extent. On each axis its points are at most b / (1 - p)
       away, with b = max(half, crop_size - half), since the extent ends between half / (1 + p) and half / (1 - p). So
       |y| <= `reach` / (1 - p), and |g| <= 2 p (1 - p) / `reach` keeps 1 - g . y between 1 - 2 p and 1 + 2 p on the whole crop.

    Hence the map between image and crop has an inverse on the whole crop, and it keeps the orientation, but for the flip: the
    determinant of its derivative has the sign of the divisor's cube.
    """
    height, width = original_size
    half = np.array([width, height]) * scale / 2
    to_vertices = np.linalg.norm(polygons.vertices - (width / 2, height / 2), axis=1) * scale
    farthest = max(np.linalg.norm(half), to_vertices.max(initial=0))
    reach = np.linalg.norm(np.maximum(half, crop_size - half))
    return float(min(1 / farthest, 2 * (1 - perspective) / reach))


def _magnification(divisor: float, perspective: float) -> float:
    """Returns how many times larger the perspective shows a small square at the crop's centre, per side.

    The determinant of its derivative is the cube of the divisor of the way back from the input, 1 - g . y, so the side grows by the
    root of that. Within the image the divisor lies between 1 / (1 + p) and 1 / (1 - p); a crop's centre may lie beside it.
    """
    return float(np.clip(divisor, 1 / (1 + perspective), 1 / (1 - perspective)) ** 1.5)


def _extent(placed_size: tuple[float, float], slant: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Returns the box [[x0, y0], [x1, y1]] of an image (H, W) about the origin, not rotated, in perspective."""
    half_height, half_width = placed_size[0] / 2, placed_size[1] / 2
    corners = [[x, y] for x in (-half_width, half_width) for y in (-half_height, half_height)]
    moved = geometry.transform_points(geometry.slant(*slant), corners)
    return np.stack([moved.min(axis=0), moved.max(axis=0)])


def _choose_crop(
    boxes_placed: FloatArray,
    extent: npt.NDArray[np.float64],
    augmentation: AugmentationConfig,
    crop_size: int,
    rng: np.random.Generator,
) -> npt.NDArray[np.float64]:
    """Returns the top left corner (x, y) of the crop, in a frame whose origin is the centre of the image.

    Half of the candidates are uniform over the `extent` of the image, half lie around a random polygon. Among those that show at
    least one whole polygon, the first that cuts the smallest share of its polygons is chosen.
    """
    num_uniform = (augmentation.crop_candidates + 1) // 2
    num_around = augmentation.crop_candidates - num_uniform
    lower, upper = extent
    uniform = lower + rng.random((num_uniform, 2)) * (upper - lower - crop_size)
    picks, offsets = rng.random(num_around), rng.random((num_around, 2))
    if not len(boxes_placed):
        return uniform[0]
    chosen = boxes_placed[(picks * len(boxes_placed)).astype(int)]
    around = (chosen[:, :2] + chosen[:, 2:]) / 2 - offsets * crop_size
    # Crops around text stay inside the image, like the uniform ones.
    low, high = np.minimum(lower, upper - crop_size), np.maximum(lower, upper - crop_size)
    corners = np.empty((augmentation.crop_candidates, 2))
    corners[0::2], corners[1::2] = uniform, np.clip(around, low, high)
    visible = visible_fractions(boxes_placed, corners, crop_size)
    num_whole = (visible >= 0.99).sum(axis=1)
    num_cut = (visible > 0.01).sum(axis=1) - num_whole
    # The share, not the number: otherwise crops of dense text would never be chosen.
    share_cut = np.where(num_whole > 0, num_cut / np.maximum(num_whole + num_cut, 1), 2.0)
    return corners[np.argmin(share_cut)]


def _needed_region(
    input_from_original: Matrix, original_size: tuple[int, int], crop_size: int, resolution: float
) -> npt.NDArray[np.float32]:
    """Returns the whole-pixel box (x0, y0, x1, y1) of the original image that the crop shows, with a margin."""
    corners_input = np.array([[0, 0], [crop_size, 0], [crop_size, crop_size], [0, crop_size]])
    corners = geometry.transform_points(np.linalg.inv(input_from_original), corners_input)
    margin = REGION_MARGIN * max(1.0, 1.0 / resolution)
    limit = np.array(original_size[::-1])
    lower = np.clip(np.floor(corners.min(axis=0) - margin), 0, limit - 1)
    upper = np.clip(np.ceil(corners.max(axis=0) + margin), lower + 1, limit)
    return np.concatenate([lower, upper]).astype(np.float32)


def _colour_matrix(augmentation: AugmentationConfig, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Returns the (3, 4) matrix of random saturation and hue about the grey axis, contrast about mid-grey, and brightness."""
    brightness, contrast, saturation, hue = rng.uniform(-1, 1, 4) * (
        augmentation.brightness,
        augmentation.contrast,
        augmentation.saturation,
        np.radians(augmentation.hue_degrees),
    )
    grey = np.outer(np.ones(3), LUMA)
    # Rodrigues' rotation about (1, 1, 1) / sqrt(3).
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    turned = np.eye(3) + np.sin(hue) * cross + (1 - np.cos(hue)) * (cross @ cross)
    colours = (grey + (1 + saturation) * (np.eye(3) - grey)) @ turned
    gain = (1 + brightness) * (1 + contrast)
    offset = np.full((3, 1), (1 + brightness) * -contrast * 127.5)
    return np.concatenate([gain * colours, offset], axis=1).astype(np.float32)
