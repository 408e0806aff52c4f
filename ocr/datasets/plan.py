"""Plans an epoch on the host: order, shards, padding and every random number.

Random numbers come from NumPy's Philox, a counter-based generator, with key (seed, epoch) and counter (0, 0, sample, stream). A
sample gets the same augmentation whatever the batch size, the number of ranks, the loader or the step at which a run resumed.

    order     c a d b e | c          5 samples, 2 ranks: the last position is padding, a marked repeat
    rank 0    c   d   e
    rank 1      a   b   (c)
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dali_pipelines import geometry
from dali_pipelines.config import AugmentationConfig, PipelineConfig
from dali_pipelines.geometry import Matrix
from dali_pipelines.source import PlannedBatch
from ocr.datasets.manifest import Manifest
from ocr.polygons import FloatArray, PolygonBatch

ORDER_STREAM, AUGMENTATION_STREAM = 0, 1
REGION_MARGIN = 2
"""Margin around the crop in pixels, before and after the resize, so that the warp interpolates between real neighbours."""
IDENTITY_COLOUR = np.eye(3, 4, dtype=np.float32)
LUMA = np.array([0.299, 0.587, 0.114])
"""Rec. 601 weights of R, G, B."""


def generator(seed: int, epoch: int, sample_id: int, stream: int) -> np.random.Generator:
    """Returns the generator of random numbers for one purpose (`stream`), sample and epoch."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, 0, sample_id, stream]))


class SamplePlanner:
    """Plans single samples: letterbox for evaluation, the DB paper's augmentation for training."""

    def __init__(self, config: PipelineConfig, *, training: bool, seed: int) -> None:
        self.config = config
        self.training = training
        self.seed = seed

    @property
    def input_size(self) -> int:
        """Side of the square input in pixels."""
        return self.config.input_size(self.training)

    @property
    def is_random(self) -> bool:
        """Whether a sample differs from epoch to epoch, so that its tensors and maps must not be cached."""
        return self.training

    def plan(
        self,
        index: int,
        sample_id: int,
        original_size: tuple[int, int],
        polygons_original: PolygonBatch,
        epoch: int,
        is_padding: bool = False,
    ) -> PlannedBatch:
        """Returns the plan of one image, a batch of one.

        Args:
            index: position in the manifest, passed through.
            sample_id: keys the random numbers; unlike `index` it does not change when another sample is skipped.
            original_size: (H, W) of the upright image.
            polygons_original: polygons of the image in the original frame, a batch of one image.
            epoch: keys the random numbers.
            is_padding: marks a repeated sample that fills up a rank.
        """
        if not self.training:
            return letterbox(index, original_size, self.config.image_size, is_padding)
        return _augment(
            index,
            original_size,
            polygons_original,
            self.config,
            generator(self.seed, epoch, sample_id, AUGMENTATION_STREAM),
            is_padding,
        )

    def plan_batch(
        self, manifest: Manifest, indices: Sequence[int], epoch: int, is_padding: Sequence[bool] | None = None
    ) -> PlannedBatch:
        """Returns the plan of the images at these positions of the manifest, at least one.

        Args:
            epoch: keys the random numbers.
            is_padding: marks repeated samples that fill up a rank; None: no sample is one.
        """
        flags = [False] * len(indices) if is_padding is None else is_padding
        return PlannedBatch.concatenate(
            self._plan_image(manifest, index, epoch, flag) for index, flag in zip(indices, flags, strict=True)
        )

    def _plan_image(self, manifest: Manifest, index: int, epoch: int, is_padding: bool) -> PlannedBatch:
        height, width = manifest.original_sizes[index]
        return self.plan(
            index,
            int(manifest.sample_ids[index]),
            (int(height), int(width)),
            manifest.polygons.select([index]),
            epoch,
            is_padding,
        )

    def input_polygons(self, manifest: Manifest, samples: PlannedBatch) -> PolygonBatch:
        """Returns the samples' polygons in the input frame. In training, polygons mostly outside the crop become don't-care."""
        polygons = manifest.polygons.select(samples.indices)
        polygons_input = polygons.transformed(samples.input_from_original)
        if not self.training:
            return polygons_input
        return hide_cut_polygons(polygons_input, self.config.augmentation.min_visible, self.input_size)


def letterbox(index: int, original_size: tuple[int, int], image_size: int, is_padding: bool) -> PlannedBatch:
    """Returns the deterministic plan of evaluation, a batch of one: longest side to `image_size`, placed top left."""
    height, width = original_size
    region = np.array([0, 0, width, height], np.float32)
    resized_size = geometry.letterbox_size(original_size, image_size)
    return _batch_of_one(
        index,
        is_padding,
        region,
        resized_size,
        np.eye(3),
        geometry.resized_from_region(region, resized_size),
        IDENTITY_COLOUR,
    )


def _augment(
    index: int,
    original_size: tuple[int, int],
    polygons_original: PolygonBatch,
    config: PipelineConfig,
    rng: np.random.Generator,
    is_padding: bool,
) -> PlannedBatch:
    augmentation, crop_size = config.augmentation, config.crop_size
    height, width = original_size
    angle = rng.uniform(-1, 1) * augmentation.rotation_degrees
    log_scale = rng.uniform(np.log(augmentation.scale_min), np.log(augmentation.scale_max))
    scale = config.image_size / max(original_size) * float(np.exp(log_scale))
    mirrored = rng.random() < augmentation.flip_probability
    placed_from_original = (
        geometry.rotation(angle)
        @ geometry.scaling(-scale if mirrored else scale, scale)
        @ geometry.translation(-width / 2, -height / 2)
    )
    boxes_placed = _bounding_boxes(polygons_original.transformed(placed_from_original[None]))
    corner = _choose_crop(boxes_placed, (height * scale, width * scale), augmentation, crop_size, rng)
    input_from_original = geometry.translation(-corner[0], -corner[1]) @ placed_from_original
    region = _needed_region(input_from_original, original_size, crop_size, scale)
    region_width, region_height = region[2] - region[0], region[3] - region[1]
    resized_size = max(1, round(region_height * scale)), max(1, round(region_width * scale))
    return _batch_of_one(
        index,
        is_padding,
        region,
        resized_size,
        input_from_original @ np.linalg.inv(geometry.resized_from_region(region, resized_size)),
        input_from_original,
        _colour_matrix(augmentation, rng),
    )


def _batch_of_one(
    index: int,
    is_padding: bool,
    region_xyxy: npt.NDArray[np.float32],
    resized_size: tuple[int, int],
    input_from_resized: Matrix,
    input_from_original: Matrix,
    colour_matrix: npt.NDArray[np.float32],
) -> PlannedBatch:
    return PlannedBatch(
        indices=np.array([index], np.int64),
        is_padding=np.array([is_padding]),
        has_failed=np.array([False]),
        regions_xyxy=region_xyxy[None],
        resized_sizes=np.array([resized_size], np.int64),
        input_from_resized=input_from_resized[None],
        input_from_original=input_from_original[None],
        colour_matrices=colour_matrix[None],
    )


def _bounding_boxes(polygons: PolygonBatch) -> FloatArray:
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
    visible = visible_fractions(_bounding_boxes(polygons_input), np.zeros((1, 2)), crop_size)[0]
    return polygons_input.with_ignore(polygons_input.ignore | (visible < min_visible))


def _choose_crop(
    boxes_placed: FloatArray,
    placed_size: tuple[float, float],
    augmentation: AugmentationConfig,
    crop_size: int,
    rng: np.random.Generator,
) -> npt.NDArray[np.float64]:
    """Returns the top left corner (x, y) of the crop, in a frame whose origin is the centre of the image.

    Half of the candidates are uniform over the image, half lie around a random polygon. Among those that show at least one whole
    polygon, the first that cuts the smallest share of its polygons is chosen.
    """
    num_uniform = (augmentation.crop_candidates + 1) // 2
    num_around = augmentation.crop_candidates - num_uniform
    extent = np.array(placed_size[::-1])
    uniform = -extent / 2 + rng.random((num_uniform, 2)) * (extent - crop_size)
    picks, offsets = rng.random(num_around), rng.random((num_around, 2))
    if not len(boxes_placed):
        return uniform[0]
    chosen = boxes_placed[(picks * len(boxes_placed)).astype(int)]
    around = (chosen[:, :2] + chosen[:, 2:]) / 2 - offsets * crop_size
    # Crops around text stay inside the image, like the uniform ones.
    low, high = np.minimum(-extent / 2, extent / 2 - crop_size), np.maximum(-extent / 2, extent / 2 - crop_size)
    corners = np.empty((augmentation.crop_candidates, 2))
    corners[0::2], corners[1::2] = uniform, np.clip(around, low, high)
    visible = visible_fractions(boxes_placed, corners, crop_size)
    num_whole = (visible >= 0.99).sum(axis=1)
    num_cut = (visible > 0.01).sum(axis=1) - num_whole
    # The share, not the number: otherwise crops of dense text would never be chosen.
    share_cut = np.where(num_whole > 0, num_cut / np.maximum(num_whole + num_cut, 1), 2.0)
    return corners[np.argmin(share_cut)]


def _needed_region(
    input_from_original: Matrix, original_size: tuple[int, int], crop_size: int, scale: float
) -> npt.NDArray[np.float32]:
    """Returns the whole-pixel box (x0, y0, x1, y1) of the original image that the crop shows, with a margin."""
    corners_input = np.array([[0, 0], [crop_size, 0], [crop_size, crop_size], [0, crop_size]])
    corners = geometry.transform_points(np.linalg.inv(input_from_original), corners_input)
    margin = REGION_MARGIN * max(1.0, 1.0 / scale)
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


class EpochPlan:
    """The batches of one epoch on one rank.

    Args:
        num_done: samples of the epoch, over all ranks, that an interrupted run has trained; the plan holds the others.
    """

    def __init__(
        self,
        manifest: Manifest,
        planner: SamplePlanner,
        *,
        epoch: int,
        batch_size: int,
        rank: int = 0,
        num_ranks: int = 1,
        num_done: int = 0,
    ) -> None:
        self.epoch = epoch
        self.batch_size = batch_size
        self._manifest = manifest
        self._planner = planner
        order = self._epoch_order()
        left = order[num_done:]
        num_padding = -len(left) % num_ranks
        self._indices = np.concatenate([left, np.resize(order, num_padding)])[rank::num_ranks]
        self._num_real = len(self._indices) - (rank >= num_ranks - num_padding)

    def __len__(self) -> int:
        """Returns the number of batches, the same on all ranks."""
        return -(-len(self._indices) // self.batch_size)

    def batch(self, step: int) -> PlannedBatch:
        """Returns the samples of batch `step`; the last batch may be smaller."""
        positions = range(step * self.batch_size, min((step + 1) * self.batch_size, len(self._indices)))
        return self._planner.plan_batch(
            self._manifest,
            self._indices[positions.start : positions.stop].tolist(),
            self.epoch,
            is_padding=[position >= self._num_real for position in positions],
        )

    def _epoch_order(self) -> npt.NDArray[np.int64]:
        if not self._planner.training:
            return np.arange(len(self._manifest), dtype=np.int64)
        # One key per listed sample, skipped ones included: skipping a sample does not change the order of the others.
        rng = generator(self._planner.seed, self.epoch, 0, ORDER_STREAM)
        keys = rng.random(self._manifest.num_listed)[self._manifest.sample_ids]
        return np.argsort(keys, kind="stable").astype(np.int64)
