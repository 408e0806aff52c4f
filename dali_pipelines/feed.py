"""Feeds DALI: turns planned samples into the arrays of a graph's external sources."""

import os
from collections import deque
from collections.abc import Iterator
from itertools import tee

import numpy as np
import numpy.typing as npt
import torch

from dali_pipelines.source import KeptImages, PlannedBatch, SourceImages
from dali_pipelines.steps import Arrays, Feed

FedArrays = tuple[tuple[Arrays, ...], ...]
"""For each function of a graph's `Feed`, one list of arrays per field."""

_NO_CONTENT = np.zeros(1, np.uint8)
_TRUE, _FALSE = np.array(True), np.array(False)


class SampleArrays:
    """Makes the arrays of planned samples: file name or kept image, region, size, warp and colours.

    Args:
        training: the fields of `steps.TrainSource`; otherwise those of `steps.EvalSource`.
    """

    def __init__(self, images: SourceImages, *, training: bool) -> None:
        self.images = images
        self.training = training
        self.read_errors: dict[int, str] = {}
        """Message for each index whose kept content could not be read the last time."""
        self._encoded_paths: dict[int, npt.NDArray[np.uint8]] = {}
        kept = images.kept
        self._no_pixels = torch.zeros((1, 1, 3), dtype=torch.uint8, device="cpu" if kept is None else kept.device)

    def for_batch(self, samples: PlannedBatch) -> FedArrays:
        """Returns the arrays of one batch: planned ones alone, or followed by kept content and kept pixels."""
        if self.images.kept is None:
            return (self._planned(samples),)
        return self._planned(samples), *self._kept(self.images.kept, samples)

    def content(self, index: int) -> npt.NDArray[np.uint8] | None:
        """Returns the kept content of a file; None if the file itself is to be read.

        Content that cannot be read is noted in `read_errors` and replaced by one byte, on which DALI fails.
        """
        if self.images.kept is None:
            return None
        self.read_errors.pop(index, None)
        try:
            return self.images.kept.encoded(index)
        except OSError as error:
            self.read_errors[index] = str(error)
            return _NO_CONTENT

    def path_bytes(self, index: int) -> npt.NDArray[np.uint8]:
        """Returns the file name as bytes, (n,)."""
        if index not in self._encoded_paths:
            self._encoded_paths[index] = np.frombuffer(os.fsencode(self.images.paths[index]), np.uint8)
        return self._encoded_paths[index]

    def _planned(self, samples: PlannedBatch) -> tuple[Arrays, ...]:
        fields: list[Arrays] = [
            [self.path_bytes(index) for index in samples.indices.tolist()],
            np.ascontiguousarray(samples.regions_xyxy[:, 1::-1]),
            np.ascontiguousarray(samples.regions_xyxy[:, 3:1:-1]),
            samples.resized_sizes.astype(np.float32),
        ]
        if self.training:
            fields += [
                samples.input_from_resized[:, :2].astype(np.float32),
                np.ascontiguousarray(samples.colour_matrices[:, :, :3]),
                np.ascontiguousarray(samples.colour_matrices[:, :, 3]),
            ]
        return tuple(fields)

    def _kept(self, kept: KeptImages, samples: PlannedBatch) -> FedArrays:
        indices = samples.indices.tolist()
        contents = [self.content(index) for index in indices]
        pixels = [kept.decoded(index) for index in indices]
        fields: tuple[Arrays, ...] = (
            [_NO_CONTENT if content is None else content for content in contents],
            [_FALSE if content is None else _TRUE for content in contents],
            [_FALSE if image is None else _TRUE for image in pixels],
        )
        fed_pixels = [self._no_pixels if image is None else image for image in pixels]
        if kept.device.type == "cpu":  # DALI asks CUDA for a stream for every torch tensor, one on the CPU too
            return fields, ([image.numpy() for image in fed_pixels],)
        return fields, (fed_pixels,)


class BatchFeed:
    """Feeds the batches of a plan to DALI's external sources and remembers which batches DALI still holds."""

    def __init__(self, arrays: SampleArrays) -> None:
        self._arrays = arrays
        self._in_flight: deque[tuple[PlannedBatch, FedArrays]] = deque()
        self._handed_out: FedArrays = ()
        """Arrays of the batch that DALI handed out last. They stay alive because DALI was given no copies."""
        self._fed: tuple[Iterator[FedArrays], ...] = (iter(()),) * (1 if arrays.images.kept is None else 3)

    def for_graph(self) -> Feed:
        """Returns the callbacks of a graph's external sources."""
        kept = self._arrays.images.kept
        if kept is None:
            return Feed(self._next_planned)
        return Feed(
            self._next_planned,
            self._next_kept,
            self._next_pixels,
            pixels_on_gpu=kept.device.type == "cuda",
            hands_out_images=any(kept.wants(index) for index in range(len(self._arrays.images.paths))),
        )

    def start(self, batches: Iterator[PlannedBatch]) -> None:
        """Feeds these batches from now on."""
        self._in_flight.clear()
        # DALI asks each source once per batch; whichever comes first draws the batch.
        self._fed = tee(map(self._prepare, batches), len(self._fed))

    def stop(self) -> None:
        """Feeds no further batch: DALI's epoch ends."""
        self._fed = (iter(()),) * len(self._fed)

    def pop(self) -> PlannedBatch:
        """Returns the samples of the batch that DALI has just handed out."""
        samples, self._handed_out = self._in_flight.popleft()
        return samples

    def _next_planned(self) -> tuple[Arrays, ...]:
        return next(self._fed[0])[0]  # StopIteration ends DALI's epoch

    def _next_kept(self) -> tuple[Arrays, ...]:
        return next(self._fed[1])[1]

    def _next_pixels(self) -> tuple[Arrays, ...]:
        return next(self._fed[2])[2]

    def _prepare(self, samples: PlannedBatch) -> FedArrays:
        arrays = self._arrays.for_batch(samples)
        self._in_flight.append((samples, arrays))
        return arrays
