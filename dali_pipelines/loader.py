"""Batches of images from a DALI pipeline: exact length, restart at any step, errors that name the file."""

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import tee
from typing import Any

import numpy as np
import torch
from nvidia.dali import types
from nvidia.dali.pipeline import Pipeline
from nvidia.dali.plugin.pytorch import feed_ndarray, to_torch_type

from dali_pipelines import steps
from dali_pipelines.allocation_errors import reraise_if_out_of_memory
from dali_pipelines.config import PipelineConfig
from dali_pipelines.cpu import cpu_pipeline
from dali_pipelines.eval import decode_pipeline, eval_pipeline
from dali_pipelines.normalize import ImageFinisher
from dali_pipelines.rendering import EXCHANGED
from dali_pipelines.source import KeptImages, PlannedBatches, PlannedSample
from dali_pipelines.train import train_pipeline

log = logging.getLogger(__name__)

_MEMORY_FORMAT = {"CHW": torch.contiguous_format, "HWC": torch.channels_last}
_DALI_TYPE = {torch.float16: types.FLOAT16, torch.float32: types.FLOAT, torch.uint8: types.UINT8}
_NO_CONTENT = np.zeros(1, np.uint8)
_TRUE, _FALSE = np.array(True), np.array(False)
_FedArrays = tuple[tuple[steps.Arrays, ...], ...]
"""For each function of a graph's feed, one list for each of its fields."""


class SampleError(RuntimeError):
    """A file could not be read, decoded or made an input; the message names it."""


@dataclass(frozen=True)
class ImageBatch:
    """Images and the plan they were made by."""

    images: torch.Tensor
    """(B, 3, H, W) float16 or float32, normalised, on the loader's device; uint8 RGB levels of a loader with levels=True. With
    output_layout=HWC in channels_last memory format."""
    samples: tuple[PlannedSample, ...]
    """One for each image; a sample that failed keeps its slot, black, marked as padding."""


def default_num_threads() -> int:
    """One less than the cores this process may use, between 1 and 4: the training step needs the rest."""
    return max(1, min(4, len(os.sched_getaffinity(0)) - 1))


class DaliLoader:
    """Runs an epoch's plan through DALI.

    `batches(plan, first_step)` starts anywhere, also after an earlier iteration was left half-way: what DALI had prepared
    ahead is drained first. Shards, order and the tail are the plan's business. The pipeline, its threads and its memory come
    into being with the first call of `batches`.

    Args:
        paths: file of each sample index of the plan.
        training: the training graph (crop, warp, colour) or the evaluation graph (letterbox).
        batch_size: the most samples a batch of the plan has.
        device: cpu, or cuda with an index.
        skip_failures: a file that cannot be decoded, or is not of the planned size, loses its slot and is kept in `failures`;
            otherwise SampleError. On a GPU sizes are not looked at: see `steps.resize`.
        kept: images in memory, used instead of the files; decoded ones that it wants are given to it.
        levels: images are uint8 levels, not normalised; evaluation only.
        largest_stored: (H, W) that no file exceeds as it is stored; for preallocate_decoder.
    """

    def __init__(
        self,
        paths: Sequence[str],
        config: PipelineConfig,
        *,
        training: bool,
        batch_size: int,
        device: torch.device,
        skip_failures: bool = True,
        kept: KeptImages | None = None,
        levels: bool = False,
        largest_stored: tuple[int, int] | None = None,
    ) -> None:
        if levels and training:
            raise ValueError("levels=True gives evaluation inputs; this loader was asked for training=True")
        self.config = config
        self.training = training
        self.batch_size = batch_size
        self.device = device
        self.skip_failures = skip_failures
        self.failures: dict[str, str] = {}
        """Reason for each file that failed while running."""
        normalised_dtype = torch.float16 if config.wants_float16(device.type) else torch.float32
        self.dtype = torch.uint8 if levels else normalised_dtype
        self._finisher = ImageFinisher(
            config.input_size(training), config.mean, config.std, self.dtype, layout=config.output_layout
        )
        self._largest_stored = largest_stored
        self._paths = paths
        self._kept = kept
        self._no_pixels = torch.zeros((1, 1, 3), dtype=torch.uint8, device=kept.device if kept is not None else "cpu")
        self._encoded_paths: dict[int, np.ndarray] = {}
        self._read_errors: dict[int, str] = {}
        """Of content that `kept` could not hand over when it was asked last."""
        self._source = self._new_source()
        self._pipeline: Pipeline | None = None

    def batches(self, plan: PlannedBatches, first_step: int = 0) -> Iterator[ImageBatch]:
        """The batches of `plan` from `first_step` on."""
        self._drain()
        step = first_step
        while step < len(plan):
            self._ready_pipeline()
            self._source.start(plan.batch(later) for later in range(step, len(plan)))
            try:
                while step < len(plan):
                    yield self._next_batch()
                    step += 1
            except RuntimeError as error:
                reraise_if_out_of_memory(error)
                # After an error DALI calls its pipeline invalid: the batch is redone sample by sample, the rest by a new one.
                log.warning("DALI failed on batch %d of epoch %d; redoing it sample by sample", step, plan.epoch)
                self.release()
                yield self._one_by_one(plan.batch(step), error)
                step += 1

    def release(self) -> None:
        """Gives back the pipeline's threads and memory and ends an iteration under way. The next one builds it anew."""
        self._pipeline = None
        self._finisher.memory.release()

    def _new_source(self) -> "_PlanSource":
        return _PlanSource(self._arrays, num_sources=1 if self._kept is None else 3)

    def _ready_pipeline(self) -> Pipeline:
        if self._pipeline is None:
            self._source = self._new_source()
            self._pipeline = self._build(self._source, self.batch_size)
        return self._pipeline

    def _next_batch(self) -> ImageBatch:
        # Given the consumer's stream, the outputs are ordered into it, and go back to DALI in its order. Without one, copying them
        # would make DALI's own stream, or this thread, wait for all that the consumer has queued.
        outputs = self._ready_pipeline().run(self._stream())
        samples = self._source.pop()
        return ImageBatch(self._taken(outputs, samples), samples)

    def _build(self, source: "_PlanSource", batch_size: int) -> Pipeline:
        given = {"feed": self._feed(source), "config": self.config, "batch_size": batch_size, **self._resources()}
        if self.device.type == "cuda":
            graph = train_pipeline if self.training else eval_pipeline
            dtype = _DALI_TYPE[self.dtype]
            pipeline = graph(on_gpu=True, dtype=dtype, largest_stored=self._largest_stored, **given)
        else:
            pipeline = cpu_pipeline(training=self.training, **given)
        pipeline.build()
        return pipeline

    def _feed(self, source: "_PlanSource") -> steps.Feed:
        kept = self._kept
        if kept is None:
            return steps.Feed(source.next_batch)
        return steps.Feed(
            source.next_batch,
            source.next_kept,
            source.next_pixels,
            pixels_on_gpu=kept.device.type == "cuda",
            hands_out_images=any(kept.wants(index) for index in range(len(self._paths))),
        )

    def _resources(self) -> dict[str, Any]:
        return {
            "num_threads": self.config.num_threads or default_num_threads(),
            "device_id": (self.device.index or 0) if self.device.type == "cuda" else None,
            "prefetch_queue_depth": self.config.prefetch_queue_depth,
        }

    def _drain(self) -> None:
        """Throws away what was prepared for an iteration that is over; the pipeline can then start anew."""
        self._source.stop()
        while self._pipeline is not None:
            try:
                self._pipeline.run()
            except StopIteration:
                self._pipeline.reset()
                return
            except RuntimeError:  # a bad file among the abandoned batches
                self.release()

    def _taken(self, outputs: Sequence["types.TensorList"], samples: Sequence[PlannedSample]) -> torch.Tensor:
        """The finished images; the decoded ones, if the graph hands them out, are kept."""
        finished, *decoded = outputs
        for images in decoded:
            for slot, sample in enumerate(samples):
                if self._kept is not None and self._kept.wants(sample.index):
                    # On the CPU a view: `keep` has copied it when it returns. On a GPU it has only ordered the copy.
                    on_gpu = self.device.type == "cuda"
                    image = self._to_torch(images[slot]) if on_gpu else torch.from_dlpack(images[slot])
                    self._kept.keep(sample.index, image)
        if self.device.type == "cuda":
            images = self._to_torch(finished.as_tensor())
            return images.permute(0, 3, 1, 2) if self.config.output_layout == "HWC" else images
        # The one pass that takes a batch out of DALI's memory also finishes it.
        return self._finisher.finish([np.asarray(image) for image in finished])

    def _one_by_one(self, samples: Sequence[PlannedSample], batch_error: RuntimeError) -> ImageBatch:
        """The batch again, each sample alone. What fails alone too is recorded, its slot black and marked as padding; nothing
        does if the batch met a read error that has passed.

        Raises:
            RuntimeError: `batch_error`: every sample fails, and none of them because of its file.
        """
        size = self.config.input_size(self.training)
        black = (0, 0, 0) if self.dtype == torch.uint8 else self.config.black
        images = torch.tensor(black, dtype=self.dtype, device=self.device)[:, None, None]
        images = images.expand(len(samples), 3, size, size)
        images = images.clone(memory_format=_MEMORY_FORMAT[self.config.output_layout])
        reasons: dict[int, str] = {}
        for slot, sample in enumerate(samples):
            try:
                images[slot] = self._alone(sample)
            except RuntimeError as error:
                reraise_if_out_of_memory(error)
                reasons[slot] = self._read_errors.get(sample.index) or " ".join(str(error).split())
        if len(reasons) == len(samples) and not any(
            self._is_fault_of_file(sample.index, reasons[slot]) for slot, sample in enumerate(samples)
        ):
            raise batch_error
        for slot, reason in reasons.items():
            self._record_failure(self._paths[samples[slot].index], reason, batch_error)
        return ImageBatch(
            images, tuple(sample.as_failed() if slot in reasons else sample for slot, sample in enumerate(samples))
        )

    def _alone(self, sample: PlannedSample) -> torch.Tensor:
        """(3, H, W) one image, by a graph of its own: after an error DALI calls a pipeline invalid."""
        source = self._new_source()
        source.start(iter([[sample]]))
        outputs = self._build(source, batch_size=1).run()
        return self._taken(outputs, source.pop())[0]

    def _is_fault_of_file(self, index: int, reason: str) -> bool:
        """Whether a sample that failed would do so in any graph."""
        if index in self._read_errors or EXCHANGED in reason:  # of a Python error DALI hands on the text alone
            return True
        if self._kept is not None and self._kept.decoded(index) is not None:
            return False
        content = None if self._kept is None else self._content(self._kept, index)
        pipeline = decode_pipeline(
            next_batch=lambda: ([self._path_bytes(index) if content is None else content],),
            config=self.config,
            on_gpu=self.device.type == "cuda",
            is_path=content is None,
            batch_size=1,
            **self._resources(),
        )
        try:
            pipeline.run()
        except RuntimeError as error:
            reraise_if_out_of_memory(error)
            return True
        return False

    def _record_failure(self, path: str, reason: str, error: RuntimeError) -> None:
        if not self.skip_failures:
            raise SampleError(f"{path}: DALI cannot make an input of it: {reason}") from error
        if path not in self.failures:
            log.error("%s: left out, DALI cannot make an input of it: %s", path, reason)
        self.failures[path] = reason

    def _to_torch(self, dense: "types.Tensor") -> torch.Tensor:
        """A copy on the loader's device."""
        output = torch.empty(dense.shape(), dtype=to_torch_type[dense.dtype], device=self.device)
        return feed_ndarray(dense, output, cuda_stream=self._stream())

    def _stream(self) -> torch.cuda.Stream | None:
        """The consumer's; None without a GPU."""
        return torch.cuda.current_stream(self.device) if self.device.type == "cuda" else None

    def _arrays(self, samples: Sequence[PlannedSample]) -> _FedArrays:
        if self._kept is None:
            return (self._planned_arrays(samples),)
        contents = [self._content(self._kept, s.index) for s in samples]
        pixels = [self._kept.decoded(s.index) for s in samples]
        kept: tuple[steps.Arrays, ...] = (
            [_NO_CONTENT if content is None else content for content in contents],
            [_FALSE if content is None else _TRUE for content in contents],
            [_FALSE if image is None else _TRUE for image in pixels],
        )
        fed_pixels = [self._no_pixels if image is None else image for image in pixels]
        if self._kept.device.type == "cpu":  # for a torch tensor on the CPU too DALI asks CUDA for a stream
            return self._planned_arrays(samples), kept, ([image.numpy() for image in fed_pixels],)
        return self._planned_arrays(samples), kept, (fed_pixels,)

    def _content(self, kept: KeptImages, index: int) -> np.ndarray | None:
        """None: it is to be read from its file. What cannot be read fails in DALI, so that the batch is redone."""
        self._read_errors.pop(index, None)
        try:
            return kept.encoded(index)
        except OSError as error:
            self._read_errors[index] = str(error)
            return _NO_CONTENT

    def _planned_arrays(self, samples: Sequence[PlannedSample]) -> tuple[steps.Arrays, ...]:
        fields: list[steps.Arrays] = [
            [self._path_bytes(s.index) for s in samples],
            [np.ascontiguousarray(s.region_xyxy[1::-1]) for s in samples],
            [np.ascontiguousarray(s.region_xyxy[3:1:-1]) for s in samples],
            [np.array(s.resized_size, np.float32) for s in samples],
        ]
        if self.training:
            fields += [
                [s.input_from_resized[:2].astype(np.float32) for s in samples],
                [np.ascontiguousarray(s.colour_matrix[:, :3]) for s in samples],
                [np.ascontiguousarray(s.colour_matrix[:, 3]) for s in samples],
            ]
        return tuple(fields)

    def _path_bytes(self, index: int) -> np.ndarray:
        if index not in self._encoded_paths:
            self._encoded_paths[index] = np.frombuffer(os.fsencode(self._paths[index]), np.uint8)
        return self._encoded_paths[index]


class _PlanSource:
    """Feeds DALI's external sources from a plan and remembers which batches are under way."""

    def __init__(self, arrays: Callable[[Sequence[PlannedSample]], _FedArrays], num_sources: int) -> None:
        self._arrays = arrays
        self._under_way: deque[tuple[tuple[PlannedSample, ...], _FedArrays]] = deque()
        self._handed_out: _FedArrays = ()
        """Of the batch that DALI has handed out last: it was given no copies."""
        self._fed: tuple[Iterator[_FedArrays], ...] = (iter(()),) * num_sources

    def start(self, batches: Iterator[Sequence[PlannedSample]]) -> None:
        self._under_way.clear()
        # DALI asks source after source for each batch; which one first draws the batch does not matter.
        self._fed = tee(map(self._under_way_arrays, batches), len(self._fed))

    def stop(self) -> None:
        self._fed = (iter(()),) * len(self._fed)

    def next_batch(self) -> tuple[steps.Arrays, ...]:
        return next(self._fed[0])[0]  # StopIteration tells DALI that the epoch is over

    def next_kept(self) -> tuple[steps.Arrays, ...]:
        return next(self._fed[1])[1]

    def next_pixels(self) -> tuple[steps.Arrays, ...]:
        return next(self._fed[2])[2]

    def pop(self) -> tuple[PlannedSample, ...]:
        """The samples of the batch that DALI has just handed out."""
        samples, self._handed_out = self._under_way.popleft()
        return samples

    def _under_way_arrays(self, batch: Sequence[PlannedSample]) -> _FedArrays:
        samples = tuple(batch)
        arrays = self._arrays(samples)
        self._under_way.append((samples, arrays))
        return arrays
