"""Batches of images from a DALI pipeline: exact length, restart at any step, errors that name the file."""

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from nvidia.dali import types
from nvidia.dali.pipeline import Pipeline
from nvidia.dali.plugin.pytorch import feed_ndarray

from dali_pipelines import steps
from dali_pipelines.config import PipelineConfig
from dali_pipelines.eval import decode_pipeline, eval_pipeline
from dali_pipelines.source import EpochPlan, PlannedSample
from dali_pipelines.train import train_pipeline

log = logging.getLogger(__name__)


class SampleError(RuntimeError):
    """A file could not be read or decoded; the message names it."""


@dataclass(frozen=True)
class ImageBatch:
    """Normalised images and the plan they were made by."""

    images: torch.Tensor
    """(B, 3, H, W) float16 or float32, on the loader's device."""
    samples: tuple[PlannedSample, ...]
    """One for each image; a sample that failed keeps its slot, black, marked as padding."""


def default_num_threads() -> int:
    """One less than the cores this process may use, between 1 and 4: the training step needs the rest."""
    return max(1, min(4, len(os.sched_getaffinity(0)) - 1))


class DaliLoader:
    """Runs an epoch's plan through DALI.

    `batches(plan, first_step)` starts anywhere, also after an earlier iteration was left half-way: what DALI had prepared
    ahead is drained first. Shards, order and the tail are the plan's business.

    Args:
        paths: file of each sample index of the plan.
        training: the training graph (crop, warp, colour) or the evaluation graph (letterbox).
        batch_size: the most samples a batch of the plan has.
        device: cpu, or cuda with an index.
        skip_failures: a file that cannot be decoded loses its slot and is kept in `failures`; otherwise SampleError.
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
    ) -> None:
        self.config = config
        self.training = training
        self.batch_size = batch_size
        self.device = device
        self.skip_failures = skip_failures
        self.failures: dict[str, str] = {}
        """Reason for each file that failed while running."""
        self.dtype = torch.float16 if config.wants_float16(device.type) else torch.float32
        self._paths = paths
        self._encoded_paths: dict[int, np.ndarray] = {}
        self._source = _PlanSource(self._arrays)
        self._pipeline = self._build(self._source, batch_size)

    def batches(self, plan: EpochPlan, first_step: int = 0) -> Iterator[ImageBatch]:
        """The batches of `plan` from `first_step` on."""
        self._drain()
        step = first_step
        while step < len(plan):
            self._source.start(plan.batch(later) for later in range(step, len(plan)))
            try:
                while step < len(plan):
                    (images,) = self._pipeline.run()
                    yield ImageBatch(self._to_torch(images), self._source.pop())
                    step += 1
            except RuntimeError as error:
                # After an error DALI calls its pipeline invalid: the batch is redone sample by sample, the rest by a new one.
                log.warning("DALI failed on batch %d of epoch %d; redoing it file by file", step, plan.epoch)
                yield self._without_bad_files(plan.batch(step), error)
                self._source = _PlanSource(self._arrays)
                self._pipeline = self._build(self._source, self.batch_size)
                step += 1

    def _build(self, source: "_PlanSource", batch_size: int) -> Pipeline:
        on_gpu = self.device.type == "cuda"
        graph = train_pipeline if self.training else eval_pipeline
        pipeline = graph(
            next_batch=source.next_batch,
            config=self.config,
            on_gpu=on_gpu,
            dtype=types.FLOAT16 if self.dtype == torch.float16 else types.FLOAT,
            batch_size=batch_size,
            **self._resources(),
        )
        pipeline.build()
        return pipeline

    def _resources(self) -> dict[str, Any]:
        return {
            "num_threads": self.config.num_threads or default_num_threads(),
            "device_id": (self.device.index or 0) if self.device.type == "cuda" else None,
            "prefetch_queue_depth": self.config.prefetch_queue_depth,
        }

    def _drain(self) -> None:
        """Throws away what was prepared for an iteration that is over; the pipeline can then start anew."""
        self._source.stop()
        while True:
            try:
                self._pipeline.run()
            except StopIteration:
                break
            except RuntimeError:  # a bad file among the abandoned batches
                self._source = _PlanSource(self._arrays)
                self._pipeline = self._build(self._source, self.batch_size)
                return
        self._pipeline.reset()

    def _without_bad_files(self, samples: Sequence[PlannedSample], batch_error: RuntimeError) -> ImageBatch:
        """The batch again; files that do not decode even alone are recorded, their slots black and marked as padding."""
        reasons = [self._decode_failure(self._paths[sample.index]) for sample in samples]
        if not any(reasons):  # the fault is not a file's
            raise batch_error
        for sample, reason in zip(samples, reasons, strict=True):
            if reason:
                self._record_failure(self._paths[sample.index], reason, batch_error)
        size = self.config.input_size(self.training)
        black = torch.tensor(self.config.black, dtype=self.dtype, device=self.device)[:, None, None]
        images = black.expand(len(samples), 3, size, size).clone()
        good = [slot for slot, reason in enumerate(reasons) if not reason]
        if good:
            source = _PlanSource(self._arrays)
            source.start(iter([[samples[slot] for slot in good]]))
            (decoded,) = self._build(source, len(good)).run()
            images[good] = self._to_torch(decoded)
        return ImageBatch(
            images,
            tuple(sample.as_padding() if reason else sample for sample, reason in zip(samples, reasons, strict=True)),
        )

    def _decode_failure(self, path: str) -> str | None:
        """DALI's words on why a file cannot be read and decoded; None if it can."""
        encoded_path = np.frombuffer(os.fsencode(path), np.uint8)
        pipeline = decode_pipeline(
            next_batch=lambda: ([encoded_path],),
            config=self.config,
            on_gpu=self.device.type == "cuda",
            batch_size=1,
            **self._resources(),
        )
        try:
            pipeline.run()
        except RuntimeError as error:
            return " ".join(str(error).split())
        return None

    def _record_failure(self, path: str, reason: str, error: RuntimeError) -> None:
        if not self.skip_failures:
            raise SampleError(f"{path}: DALI cannot read or decode it: {reason}") from error
        if path not in self.failures:
            log.error("%s: left out, DALI cannot read or decode it: %s", path, reason)
        self.failures[path] = reason

    def _to_torch(self, images: "types.TensorList") -> torch.Tensor:
        dense = images.as_tensor()
        output = torch.empty(dense.shape(), dtype=self.dtype, device=self.device)
        stream = torch.cuda.current_stream(self.device) if self.device.type == "cuda" else None
        return feed_ndarray(dense, output, cuda_stream=stream)

    def _arrays(self, samples: Sequence[PlannedSample]) -> tuple[steps.Arrays, ...]:
        """One list for each field of the graph's source."""
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
    """Feeds DALI's external source from a plan and remembers which batches are under way."""

    def __init__(self, arrays: Callable[[Sequence[PlannedSample]], tuple[steps.Arrays, ...]]) -> None:
        self._arrays = arrays
        self._batches: Iterator[Sequence[PlannedSample]] = iter(())
        self._under_way: deque[tuple[PlannedSample, ...]] = deque()

    def start(self, batches: Iterator[Sequence[PlannedSample]]) -> None:
        self._under_way.clear()
        self._batches = batches

    def stop(self) -> None:
        self._batches = iter(())

    def next_batch(self) -> tuple[steps.Arrays, ...]:
        samples = tuple(next(self._batches))  # StopIteration tells DALI that the epoch is over
        self._under_way.append(samples)
        return self._arrays(samples)

    def pop(self) -> tuple[PlannedSample, ...]:
        """The samples of the batch that DALI has just handed out."""
        return self._under_way.popleft()
