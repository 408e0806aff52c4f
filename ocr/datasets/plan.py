"""Plans an epoch on the host: order, shards, padding and every random number.

Random numbers come from NumPy's Philox, a counter-based generator, with key (seed, epoch) and counter (0, 0, sample, stream). A
sample gets the same augmentation whatever the batch size, the number of ranks, the loader or the step at which a run resumed.

    order     c a d b e | c          5 samples, 2 ranks: the last position is padding, a marked repeat
    rank 0    c   d   e
    rank 1      a   b   (c)

`compiled_plan` plans a batch in one pass; `reference_plan` says the same one sample at a time, and is the place to read what the
augmentation does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from dali_pipelines.config import AUTO, PipelineConfig
from dali_pipelines.source import PlannedBatch
from ocr.datasets.compiled_plan import (
    NUM_COLOUR_DRAWS,
    Draws,
    Images,
    Planned,
    Settings,
    move_polygons,
    num_draws,
    plan_samples,
)
from ocr.datasets.epoch_order import epoch_order
from ocr.datasets.manifest import Manifest
from ocr.datasets.philox import AUGMENTATION_STREAM, PERSPECTIVE_STREAM, random_doubles
from ocr.errors import InputError
from ocr.polygons import PolygonBatch
from ocr.targets.config import TargetConfig
from ocr.targets.maps import measured
from ocr.targets.outline import Outlines

IDENTITY_COLOUR = np.eye(3, 4, dtype=np.float32)
PASS_SHIFT = 40
"""Bit from which on the key of a sample's random numbers holds the number of the pass over its data set."""


@dataclass(frozen=True)
class PlannedText(PlannedBatch):
    """A planned batch with the samples' polygons. `select` returns samples without them."""

    polygons_input: PolygonBatch
    """Polygons of the samples in the input frame."""
    outlines: Outlines
    """Measures of these polygons, which the target maps are drawn by."""


class SamplePlanner:
    """Plans samples: letterbox for evaluation, the DB paper's augmentation for training."""

    def __init__(self, config: PipelineConfig, *, training: bool, seed: int, shuffle_block: int = 1) -> None:
        """Takes the settings.

        Args:
            training: augment at random.
            seed: keys the random numbers.
            shuffle_block: number of neighbouring training images that are shuffled as one block.

        Raises:
            InputError: the image_size is still to be chosen.
        """
        if config.image_size == AUTO:
            raise InputError(
                "pipeline.image_size=auto: train.py, prepare_data.py, inspect_data.py, compare_loaders.py and sweep_defaults.py "
                "choose a size and log it; give this command that number"
            )
        self.config = config
        self.shuffle_block = shuffle_block
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

    def plan_batch(
        self,
        manifest: Manifest,
        indices: npt.ArrayLike,
        epoch: int,
        is_padding: npt.NDArray[np.bool_] | None = None,
        passes: npt.ArrayLike = 0,
    ) -> PlannedBatch:
        """Returns the plan of the images at these B positions of the manifest.

        Args:
            epoch: keys the random numbers.
            is_padding: (B,) marks repeated samples that fill up a rank; None: no sample is one.
            passes: (B,) or one number: keys the random numbers of images that an epoch has more than once.
        """
        indices = np.asarray(indices, np.int64)
        if not self.training:
            return letterbox(indices, manifest.original_sizes[indices], self.config.image_size, is_padding)
        num_samples, augmentation = len(indices), self.config.augmentation
        planned = Planned(
            regions_xyxy=np.empty((num_samples, 4), np.float32),
            resized_sizes=np.empty((num_samples, 2), np.int64),
            input_from_resized=np.empty((num_samples, 3, 3)),
            input_from_original=np.empty((num_samples, 3, 3)),
            colour_matrices=np.empty((num_samples, 3, 4), np.float32),
        )
        settings = Settings(
            self.config.crop_size,
            augmentation.rotation_degrees,
            augmentation.perspective,
            augmentation.flip_probability,
            augmentation.crop_candidates,
        )
        draws = self._draw(manifest, indices, epoch, np.asarray(passes, np.int64))
        plan_samples(indices, _images(manifest), draws, settings, planned)
        return PlannedBatch(indices, _flags(is_padding, num_samples), np.zeros(num_samples, np.bool_), *planned)

    def input_polygons(self, manifest: Manifest, samples: PlannedBatch) -> PolygonBatch:
        """Returns the samples' polygons in the input frame. In training, polygons mostly outside the crop become don't-care."""
        min_visible = self.config.augmentation.min_visible if self.training else 0.0
        images, ignore = _images(manifest), manifest.polygons.ignore
        return PolygonBatch(
            *move_polygons(samples.indices, images, ignore, samples.input_from_original, min_visible, self.input_size)
        )

    def with_text(
        self, manifest: Manifest, samples: PlannedBatch, targets: TargetConfig, device: torch.device | str = "cpu"
    ) -> PlannedText:
        """Returns the samples with their polygons, measured for target maps on the device; see `ocr.targets.maps.measured`."""
        if isinstance(samples, PlannedText):
            return samples
        polygons_input = self.input_polygons(manifest, samples)
        outlines = measured(polygons_input, (self.input_size, self.input_size), targets, device)
        return PlannedText(**vars(samples), polygons_input=polygons_input, outlines=outlines)

    def _draw(
        self, manifest: Manifest, indices: npt.NDArray[np.int64], epoch: int, passes: npt.NDArray[np.int64]
    ) -> Draws:
        """Returns the random numbers of the images."""
        augmentation = self.config.augmentation
        key, counters = (self.seed, epoch), manifest.sample_ids[indices] + (passes << PASS_SHIFT)
        doubles = random_doubles(key, counters, AUGMENTATION_STREAM, num_draws(augmentation.crop_candidates))
        low, high = np.log(augmentation.scale_min), np.log(augmentation.scale_max)
        longest = manifest.original_sizes[indices].max(axis=1)
        scales = self.config.image_size / longest * np.exp(low + (high - low) * doubles[:, 1])
        colours = np.empty((len(indices), 5))
        limits = augmentation.brightness, augmentation.contrast, augmentation.saturation
        spread = -1.0 + 2.0 * doubles[:, -NUM_COLOUR_DRAWS:]
        colours[:, :3] = spread[:, :3] * limits
        hue = spread[:, 3] * np.radians(augmentation.hue_degrees)
        colours[:, 3], colours[:, 4] = np.sin(hue), np.cos(hue)
        tilts = np.zeros((len(indices), 2))
        if augmentation.perspective > 0:
            directions, strengths = random_doubles(key, counters, PERSPECTIVE_STREAM, 2).T
            radians = 2 * np.pi * directions
            tilts[:, 0], tilts[:, 1] = np.cos(radians), np.sin(radians)
            tilts *= (augmentation.perspective * strengths)[:, None]
        return Draws(doubles, scales, colours, tilts)


def _images(manifest: Manifest) -> Images:
    polygons = manifest.polygons
    return Images(manifest.original_sizes, polygons.vertices, polygons.vertex_starts, polygons.polygon_starts)


def _flags(flags: npt.NDArray[np.bool_] | None, num_samples: int) -> npt.NDArray[np.bool_]:
    return np.zeros(num_samples, np.bool_) if flags is None else flags


def letterbox(
    indices: npt.ArrayLike,
    original_sizes: npt.ArrayLike,
    image_size: int,
    is_padding: npt.NDArray[np.bool_] | None = None,
) -> PlannedBatch:
    """Returns the deterministic plan of evaluation: longest side to `image_size`, placed top left.

    Args:
        indices: (B,) positions in the manifest, passed through.
        original_sizes: (B, 2) (H, W) of the upright images.
        is_padding: (B,) marks repeated samples that fill up a rank; None: no sample is one.
    """
    indices, sizes = np.asarray(indices, np.int64), np.asarray(original_sizes)
    num_samples = len(indices)
    scales = image_size / sizes.max(axis=1)
    resized_sizes = np.maximum(np.rint(sizes * scales[:, None]), 1).astype(np.int64)
    regions = np.zeros((num_samples, 4), np.float32)
    regions[:, 2:] = sizes[:, ::-1]
    input_from_original = np.zeros((num_samples, 3, 3))
    input_from_original[:, [1, 0], [1, 0]] = resized_sizes / sizes
    input_from_original[:, 2, 2] = 1
    return PlannedBatch(
        indices=indices,
        is_padding=_flags(is_padding, num_samples),
        has_failed=np.zeros(num_samples, np.bool_),
        regions_xyxy=regions,
        resized_sizes=resized_sizes,
        input_from_resized=np.broadcast_to(np.eye(3), (num_samples, 3, 3)),
        input_from_original=input_from_original,
        colour_matrices=np.broadcast_to(IDENTITY_COLOUR, (num_samples, 3, 4)),
    )


class EpochPlan:
    """The batches of one epoch on one rank.

    Args:
        num_epochs: epochs of the run; each but the last is followed by the next one. 0: nothing is known to follow.
        num_done: samples of the epoch, over all ranks, that an interrupted run has trained; the plan holds the others.
        add_text: adds polygons to a planned batch, which then is a `PlannedText`. Plans are equal only if this is the same
            function. None: batches without polygons.
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
        num_epochs: int = 0,
        num_done: int = 0,
        add_text: Callable[[PlannedBatch], PlannedText] | None = None,
    ) -> None:
        self.epoch = epoch
        self.batch_size = batch_size
        self._manifest = manifest
        self._planner = planner
        self._rank, self._num_ranks, self._num_done = rank, num_ranks, num_done
        self._num_epochs = num_epochs
        self._add_text = add_text
        num_left = len(manifest) - num_done
        self._num_samples = -(-num_left // num_ranks)
        num_padding = self._num_samples * num_ranks - num_left
        self._num_real = self._num_samples - (rank >= num_ranks - num_padding)

    def __len__(self) -> int:
        """Returns the number of batches, the same on all ranks."""
        return -(-self._num_samples // self.batch_size)

    def __eq__(self, other: object) -> bool:
        """Returns whether the other plan was made from the same arguments."""
        if not isinstance(other, EpochPlan):
            return NotImplemented
        is_same_data = self._manifest is other._manifest and self._planner is other._planner
        return is_same_data and self._numbers == other._numbers and self._add_text is other._add_text

    @property
    def following(self) -> "EpochPlan | None":
        """The plan of the next epoch, whole; None after the last one."""
        if self.epoch + 1 >= self._num_epochs:
            return None
        return EpochPlan(
            self._manifest,
            self._planner,
            epoch=self.epoch + 1,
            batch_size=self.batch_size,
            rank=self._rank,
            num_ranks=self._num_ranks,
            num_epochs=self._num_epochs,
            add_text=self._add_text,
        )

    @property
    def _numbers(self) -> tuple[int, ...]:
        return self.epoch, self.batch_size, self._rank, self._num_ranks, self._num_epochs, self._num_done

    def batch(self, step: int) -> PlannedBatch:
        """Returns the samples of batch `step`; the last batch may be smaller."""
        first = step * self.batch_size
        indices, passes = (numbers[first : first + self.batch_size] for numbers in self._samples)
        is_padding = np.arange(first, first + len(indices)) >= self._num_real
        samples = self._planner.plan_batch(self._manifest, indices, self.epoch, is_padding, passes)
        return samples if self._add_text is None else self._add_text(samples)

    @cached_property
    def _samples(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Positions in the manifest, in the order of this rank, and the passes over their data sets."""
        if self._planner.training:
            indices, passes = epoch_order(self._manifest, self._planner.seed, self.epoch, self._planner.shuffle_block)
        else:
            indices = np.arange(len(self._manifest), dtype=np.int64)
            passes = np.zeros_like(indices)
        return self._share(indices), self._share(passes)

    def _share(self, order: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Returns this rank's share of the numbers of all samples, padded."""
        left = order[self._num_done :]
        num_padding = self._num_samples * self._num_ranks - len(left)
        return np.concatenate([left, np.resize(order, num_padding)])[self._rank :: self._num_ranks]
