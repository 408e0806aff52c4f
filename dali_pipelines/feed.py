"""Feeds DALI: turns planned samples into the arrays of a graph's external sources."""

import math
import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import tee
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from nvidia.dali.backend import TensorCPU, TensorListCPU

from dali_pipelines.ahead import Ahead
from dali_pipelines.config import LARGE_SHARE
from dali_pipelines.signature import Signature, signature_of
from dali_pipelines.source import KeptImages, PlannedBatch, SourceImages
from dali_pipelines.steps import Arrays, Feed

FedArrays = tuple[tuple[Arrays, ...], ...]
"""For each function of a graph's `Feed`, one list of arrays per field."""

Inputs = Literal["planned", "images", "contents"]

_NO_CONTENT = np.zeros(1, np.uint8)


class FailedFiles:
    """Files that DALI could not process, by their index: batches leave them out until they may be sound again.

    A file on disk is tried again once its signature differs from that after the failure. A file without a signature, in a shard or
    at `s3://`, is tried again in each pass over the data, since it may have been out of reach. A sound file that could only not be
    read, as after an I/O error, is tried again in the next pass, and if it fails again after 2, 4, 8, ... further ones.
    """

    def __init__(self, images: SourceImages) -> None:
        self._images = images
        self._signatures: dict[int, Signature | None] = {}
        self._pass = 0
        self._retries: dict[int, tuple[int, int]] = {}
        """For files that may be sound: the pass that tries them again, and the number of failures."""
        self._stand_in: PlannedBatch | None = None

    def add(self, index: int, *, is_damaged: bool = True) -> None:
        """Leaves a file out from now on.

        Args:
            is_damaged: what the file holds is at fault, so it stays out until the file changes.
        """
        self._signatures[index] = signature_of(self._images.paths[index])
        if not is_damaged:
            num_failures = self._retries.get(index, (0, 0))[1] + 1
            self._retries[index] = self._pass + 2 ** (num_failures - 1), num_failures

    def start_pass(self) -> None:
        """Begins a pass over the data: files that may be sound are tried again. A thread may call `choose` meanwhile."""
        self._pass += 1
        self._signatures = {
            index: signature
            for index, signature in list(self._signatures.items())
            if (signature is not None or self._is_local(index)) and not self._is_due(index, self._pass)
        }

    def would_retry(self) -> bool:
        """Returns whether a file that is left out now would be tried again in a new pass. A thread may call `choose` meanwhile."""
        return any(
            signature_of(self._images.paths[index]) != signature
            or (signature is None and not self._is_local(index))
            or self._is_due(index, self._pass + 1)
            for index, signature in list(self._signatures.items())
        )

    def choose(self, samples: PlannedBatch) -> tuple[PlannedBatch, list[int]]:
        """Returns what to feed for a batch, and the rows of the batch that its images belong to.

        If all files of the batch have failed, that is a sample that has been rendered before, and no row: DALI takes no empty
        batch.
        """
        rows = list(range(len(samples)))
        if self._signatures:
            rows = [row for row, index in enumerate(samples.indices.tolist()) if not self._is_out(index)]
        if len(rows) == len(samples):
            return samples, rows
        if rows:
            return samples.select(rows), rows
        return (samples, list(range(len(samples)))) if self._stand_in is None else (self._stand_in, rows)

    def note_rendered(self, samples: PlannedBatch) -> None:
        """Remembers a sample that DALI has rendered, for `choose`."""
        if self._stand_in is None:
            self._stand_in = samples.select([0])

    def _is_out(self, index: int) -> bool:
        if index not in self._signatures:
            return False
        # The planning thread and the recovery of a batch may come to the same file at the same time.
        if signature_of(self._images.paths[index]) != self._signatures.get(index):
            self._signatures.pop(index, None)
            return False
        return True

    def _is_due(self, index: int, number: int) -> bool:
        """Returns whether the pass of this number tries a file again that may be sound."""
        return index in self._retries and self._retries[index][0] <= number

    def _is_local(self, index: int) -> bool:
        return os.path.isdir(os.path.dirname(self._images.paths[index]))


class SampleArrays:
    """Makes the arrays of planned samples: file name or kept image, region, size, warp and colours.

    Args:
        training: the fields of `steps.TrainSource`; otherwise those of `steps.EvalSource`.
        inputs: planned: these fields, and images in memory. images: the field of `steps.FileSource`, and images in memory.
            contents: as images, but without pixels in memory.
        in_perspective: the warp is fed as a (3, 3) matrix, otherwise as (2, 3).
        max_pixels: largest number of pixels to decode at once. Images above `LARGE_SHARE` of it are decoded one by one.
    """

    def __init__(
        self,
        images: SourceImages,
        *,
        training: bool,
        inputs: Inputs = "planned",
        in_perspective: bool = False,
        max_pixels: float = math.inf,
    ) -> None:
        self.max_pixels = max_pixels
        self.images = images
        self.training = training
        self.inputs = inputs
        self._num_warp_rows = 3 if in_perspective else 2
        self.failed_files = FailedFiles(images)
        self.read_errors: dict[int, str] = {}
        """Message for each index whose kept content could not be read the last time."""
        kept = images.kept
        self._no_pixels = torch.zeros((1, 1, 3), dtype=torch.uint8, device="cpu" if kept is None else kept.device)

    def prepare(self, samples: PlannedBatch) -> "FedBatch":
        """Returns what DALI is fed for a batch, without the samples whose files have failed before."""
        fed, rows = self.failed_files.choose(samples)
        together = self.are_together(fed)
        alone = [row for row, is_together in zip(rows, together, strict=False) if not is_together]
        if alone:
            rows = [row for row, is_together in zip(rows, together, strict=True) if is_together]
            fed = fed.select(np.flatnonzero(together))
        planned, *kept = self.for_batch(fed)
        return FedBatch(samples, fed, rows, alone, (tuple(map(_tensor_list, planned)), *kept))

    def for_batch(self, samples: PlannedBatch) -> FedArrays:
        """Returns the arrays of one batch: planned ones alone, or followed by kept content and kept pixels."""
        if self.images.kept is None:
            return (self._planned(samples),)
        return self._planned(samples), *self._kept(self.images.kept, samples)

    def are_together(self, samples: PlannedBatch) -> npt.NDArray[np.bool_]:
        """Returns which of the samples are decoded at once, (B,): at least one. The others follow one by one."""
        if self.images.stored_sizes is None:
            return np.ones(len(samples), bool)
        num_pixels = self.images.stored_sizes[samples.indices].prod(axis=1, dtype=np.int64)
        kept = self.images.kept
        if kept is not None and num_pixels.max(initial=0) > self.max_pixels * LARGE_SHARE:  # decoded already
            is_kept = [kept.decoded(index) is not None for index in samples.indices.tolist()]
            num_pixels = np.where(is_kept, 0, num_pixels)
        is_small = num_pixels <= self.max_pixels * LARGE_SHARE
        together = is_small & (np.cumsum(np.where(is_small, num_pixels, 0)) <= self.max_pixels)
        if not together.any():
            together[:1] = True
        return together

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
        return np.frombuffer(os.fsencode(self.images.paths[index]), np.uint8)

    @property
    def num_functions(self) -> int:
        """Number of functions of a graph's `Feed`."""
        if self.images.kept is None:
            return 1
        return 2 if self.inputs == "contents" else 3

    def _planned(self, samples: PlannedBatch) -> tuple[Arrays, ...]:
        paths = [self.path_bytes(index) for index in samples.indices.tolist()]
        if self.inputs != "planned":
            return (paths,)
        fields: list[Arrays] = [
            paths,
            np.ascontiguousarray(samples.regions_xyxy[:, 1::-1]),
            np.ascontiguousarray(samples.regions_xyxy[:, 3:1:-1]),
            samples.resized_sizes.astype(np.float32),
            self._stored_sizes(samples),
        ]
        if self.training:
            fields += [
                samples.input_from_resized[:, : self._num_warp_rows].astype(np.float32),
                np.ascontiguousarray(samples.colour_matrices[:, :, :3]),
                np.ascontiguousarray(samples.colour_matrices[:, :, 3]),
            ]
        return tuple(fields)

    def _stored_sizes(self, samples: PlannedBatch) -> npt.NDArray[np.int64]:
        """Returns (B, 2), the (H, W) that each file must state; zeros if the sizes are not known."""
        if self.images.stored_sizes is None:
            return np.zeros((len(samples), 2), np.int64)
        return self.images.stored_sizes[samples.indices].astype(np.int64)

    def _kept(self, kept: KeptImages, samples: PlannedBatch) -> FedArrays:
        indices = samples.indices.tolist()
        contents = [self.content(index) for index in indices]
        with_pixels = self.inputs != "contents"
        pixels = [kept.decoded(index) if with_pixels else None for index in indices]
        fields: tuple[Arrays, ...] = (
            [_NO_CONTENT if content is None else content for content in contents],
            np.array([content is not None for content in contents]),
            np.array([image is not None for image in pixels]),
        )
        if not with_pixels:
            return (fields[:2],)
        fed_pixels = [self._no_pixels if image is None else image for image in pixels]
        if kept.device.type == "cpu":  # DALI asks CUDA for a stream for every torch tensor, one on the CPU too
            return fields, ([image.numpy() for image in fed_pixels],)
        return fields, (fed_pixels,)


@dataclass(frozen=True)
class FedBatch:
    """A batch on its way through DALI."""

    samples: PlannedBatch
    """All samples of the batch."""
    fed: PlannedBatch
    """The samples that DALI renders: those of `rows`, or a stand-in if there are none."""
    rows: list[int]
    """Rows of `samples` that get an image; the files of the others have failed before, or they are in `alone`."""
    alone: list[int]
    """Rows that are rendered one by one, because the batch would take too much memory."""
    arrays: FedArrays
    """Arrays that DALI was given without a copy, so they must stay alive."""


class BatchFeed:
    """Feeds the batches of a plan to DALI's external sources and remembers which batches DALI still holds."""

    def __init__(self, arrays: SampleArrays) -> None:
        self._arrays = arrays
        self._ahead: Ahead[FedBatch] = Ahead(iter(()), depth=1)
        self._in_flight: deque[FedBatch] = deque()
        self._handed_out: FedBatch | None = None
        """The batch that DALI handed out last, whose arrays stay alive here."""
        self._fed: tuple[Iterator[FedArrays], ...] = (iter(()),) * arrays.num_functions

    def for_graph(self) -> Feed:
        """Returns the callbacks of a graph's external sources."""
        kept = self._arrays.images.kept
        if kept is None:
            return Feed(self._next_planned)
        if self._arrays.inputs == "contents":
            return Feed(self._next_planned, self._next_kept)
        return Feed(
            self._next_planned,
            self._next_kept,
            self._next_pixels,
            pixels_on_gpu=kept.device.type == "cuda",
            hands_out_images=kept.wants_any(),
        )

    def start(self, batches: Iterator[PlannedBatch], num_ahead: int) -> None:
        """Feeds these batches from now on. A thread plans and prepares up to `num_ahead` of them before DALI takes them."""
        self.stop()
        self._ahead = Ahead(map(self._arrays.prepare, batches), num_ahead)
        self._in_flight = deque()
        # DALI asks each source once per batch; whichever comes first draws the batch.
        self._fed = tee(_draw(self._ahead, self._in_flight), len(self._fed))

    def stop(self) -> None:
        """Feeds no further batch and ends the thread: DALI's epoch ends."""
        self._fed = (iter(()),) * len(self._fed)
        self._ahead.close()

    def pop(self) -> FedBatch:
        """Returns the batch that DALI has just handed out."""
        self._handed_out = self._in_flight.popleft()
        return self._handed_out

    def _next_planned(self) -> tuple[Arrays, ...]:
        return next(self._fed[0])[0]  # StopIteration ends DALI's epoch

    def _next_kept(self) -> tuple[Arrays, ...]:
        return next(self._fed[1])[1]

    def _next_pixels(self) -> tuple[Arrays, ...]:
        return next(self._fed[2])[2]


def _draw(batches: Iterator[FedBatch], in_flight: deque[FedBatch]) -> Iterator[FedArrays]:
    """Yields what DALI is fed, and notes each batch as it is drawn."""
    for batch in batches:
        in_flight.append(batch)
        yield batch.arrays


def _tensor_list(field: Arrays) -> TensorListCPU:
    """Returns a field as DALI takes it fastest: the thread that calls `Pipeline.run` need not convert it.

    A list of arrays is copied, so that kept images are not handed over like this.
    """
    if isinstance(field, TensorListCPU):
        return field
    return TensorListCPU(field if isinstance(field, np.ndarray) else [TensorCPU(array) for array in field])
