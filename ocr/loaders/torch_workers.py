"""The image loader of loader=torch and shard_reader=webdataset: PyTorch workers decode and resample."""

import gc
import logging
import os
from collections import deque
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch.utils.data import DataLoader, get_worker_info

from dali_pipelines.ahead import Ahead
from dali_pipelines.normalize import input_dtype, normalize_levels
from dali_pipelines.source import ImageBatch, PlannedBatch, PlannedBatches, PlannedSample, SampleError
from ocr.datasets.base import ValidatedOCRDataset
from ocr.errors import InputError, StorageError, WorkerError

log = logging.getLogger(__name__)

SHARED_MEMORY = "/dev/shm"
"""File system of the memory through which workers send their batches."""
_PREFETCHED = 2
"""Batches that each worker prepares ahead, PyTorch's default."""
_PLANNED_AHEAD = 4
"""Planned batches that wait for a worker."""
_SHARED_MEMORY_ADVICE = (
    "start the container with --shm-size=8g or --ipc=host, lower dataloader.num_workers or dataloader.batch_size, or set "
    "dataloader.num_workers=0"
)


class TorchLoader:
    """Runs a plan in PyTorch workers, which decode and resample; the main process normalises on the device.

    Workers send uint8: a quarter of the bytes of float32 images. They are forked at the first call of `batches`, and inherit the
    images that the data set has in memory by then.

    Args:
        num_workers: worker processes; 0: the main process does everything, as it always does on Windows, which cannot fork.
        skip_failures: a file that fails loses its slot and is listed in `failures`; otherwise SampleError.
        levels: images are uint8 levels, not normalised; evaluation only.
        failures: receives the reason for each file that fails; None: a new dict, `failures`.
        timeout: seconds to wait for a batch of a worker before the run ends; 0: for ever.

    Raises:
        InputError: from `batches`, if the workers' batches do not fit into shared memory.
        WorkerError: from `batches`, if a worker died, hangs, or found no room in shared memory.
    """

    def __init__(
        self,
        dataset: ValidatedOCRDataset,
        *,
        num_workers: int,
        device: torch.device,
        skip_failures: bool,
        levels: bool = False,
        failures: dict[str, str] | None = None,
        timeout: float = 0,
    ) -> None:
        if levels and dataset.planner.training:
            raise ValueError("levels=True gives evaluation inputs; this data set is planned for training")
        self.dataset = dataset
        self.device = device
        self.skip_failures = skip_failures
        self.failures: dict[str, str] = {} if failures is None else failures
        """Reason for each file that failed during iteration."""
        normalised_dtype = input_dtype(dataset.planner.config, device.type)
        self.dtype = torch.uint8 if levels else normalised_dtype
        self._finisher = dataset.finisher(self.dtype)
        self._num_workers = num_workers if hasattr(os, "fork") else 0
        self._timeout = timeout if self._num_workers else 0
        self._sampler = _PlanSampler()
        self._loader: DataLoader[_Rendered] | None = None

    def batches(self, plan: PlannedBatches, first_step: int = 0) -> Iterator[ImageBatch]:
        """Yields the batches of `plan` from `first_step` on."""
        if self._loader is None:
            # Before the fork: in a worker, collecting an abandoned DALI pipeline would wait for threads that do not exist there.
            gc.collect()
            if self._num_workers and first_step < len(plan):
                self._check_shared_memory(len(plan.batch(first_step)))
            self._loader = self._build()
        ahead = self._sampler.start(plan, first_step)
        try:
            for images, errors in self._received(self._loader):
                samples = self._checked(self._sampler.sent.popleft(), errors)
                yield ImageBatch(self._finished(images), samples)
        except RuntimeError as error:  # PyTorch reports a dead worker in a signal handler too, so at any line
            problem = self._problem_of_worker(error) if self._num_workers else None
            if problem is None:
                raise
            raise WorkerError(problem) from error
        finally:
            ahead.close()

    def release(self) -> None:
        """Ends the current iteration and the worker processes. The next iteration starts new ones."""
        self._sampler.stop()
        self._loader = None
        self._finisher.memory.release()

    def _build(self) -> "DataLoader[_Rendered]":
        return DataLoader(
            _RenderedSamples(self.dataset),
            batch_sampler=self._sampler,  # type: ignore[arg-type]  # gives planned samples instead of indices
            num_workers=self._num_workers,
            timeout=self._timeout,
            prefetch_factor=_PREFETCHED if self._num_workers else None,
            collate_fn=partial(_stack, size=self.dataset.planner.input_size),
            pin_memory=self.device.type == "cuda",
            persistent_workers=self._num_workers > 0,
            multiprocessing_context="fork" if self._num_workers else None,  # kept images are shared, not copied
        )

    def _check_shared_memory(self, batch_size: int) -> None:
        """Raises InputError if the batches that the workers prepare do not fit into what is free of shared memory."""
        if not os.path.isdir(SHARED_MEMORY):  # macOS has no such limit
            return
        num_batches = _PREFETCHED * self._num_workers + 1  # and the one that the main process works on
        needed = num_batches * batch_size * 3 * self.dataset.planner.input_size**2
        status = os.statvfs(SHARED_MEMORY)
        free = status.f_bavail * status.f_frsize
        if needed > free:
            raise InputError(
                f"{SHARED_MEMORY}: {free / 1e6:,.0f} MB are free; {self._num_workers} workers need {needed / 1e6:,.0f} MB for "
                f"their batches of {batch_size} images; {_SHARED_MEMORY_ADVICE}"
            )

    def _received(self, loader: "DataLoader[_Rendered]") -> "Iterator[tuple[torch.Tensor, _Errors]]":
        """Yields the batches of the workers. Errors of their processes, not of the program in them, say what to do."""
        try:
            yield from loader
        except (RuntimeError, OSError, EOFError) as error:  # PyTorch has no classes for these
            problem = self._problem_of_worker(error) if self._num_workers else None
            if problem is None:
                raise
            raise WorkerError(problem) from error

    def _problem_of_worker(self, error: Exception) -> str | None:
        """Returns what happened to a worker process and what to do; None if the program in it raised the error."""
        text = str(error)
        if "shared memory" in text or "No space left on device" in text or "bus error" in text.lower():
            return f"a worker found {SHARED_MEMORY} full; {_SHARED_MEMORY_ADVICE}"
        if "DataLoader timed out" in text:
            return (
                f"no batch from the {self._num_workers} workers within {self._timeout:g} s: a worker hangs, often because its "
                f"file system does not answer; check that {self.dataset.config.places} can be read, try "
                "dataloader.num_workers=0, or raise dataloader.worker_timeout"
            )
        # The connection to a dead worker breaks with an OSError or EOFError. PyTorch puts "Caught" before a worker's own error.
        is_connection = not isinstance(error, RuntimeError) and not text.startswith("Caught ")
        if "DataLoader worker (pid" in text or is_connection:
            return (
                f"a worker died: {' '.join(text.split())[:200]}; if RAM ran out (see dmesg), lower dataloader.num_workers or "
                "dataloader.batch_size; if not, dataloader.num_workers=0 shows the worker's own error"
            )
        return None

    def _finished(self, images_BHWC: torch.Tensor) -> torch.Tensor:
        if self.device.type == "cpu":
            return self._finisher.finish(list(images_BHWC.numpy()))
        levels_BCHW = images_BHWC.to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        if self.dtype == torch.uint8:
            return levels_BCHW.contiguous()
        config = self.dataset.planner.config
        return normalize_levels(levels_BCHW, config.mean, config.std, dtype=self.dtype)

    def _checked(self, samples: PlannedBatch, errors: "_Errors") -> PlannedBatch:
        for row, error in errors.items():
            if isinstance(error, StorageError):
                raise error
            if not self.skip_failures:
                raise SampleError(error)
            path = self.dataset.manifest.image_paths[samples.indices[row]]
            if path not in self.failures:
                log.error("skipped: %s", error)
            self.failures[path] = error
        return samples.with_failed(list(errors))


class _PlanSampler:
    """Yields the batches of a plan. They are planned in the main process, so workers need not know the epoch."""

    def __init__(self) -> None:
        self.sent: deque[PlannedBatch] = deque()
        """Batches on their way through the workers, in order."""
        self._ahead: Ahead[PlannedBatch] = Ahead(iter(()), _PLANNED_AHEAD)

    def start(self, plan: PlannedBatches, first_step: int) -> Ahead[PlannedBatch]:
        """Yields the batches of this plan from now on. Returns them as a thread plans them."""
        self.stop()
        self.sent.clear()
        self._ahead = Ahead((plan.batch(step) for step in range(first_step, len(plan))), _PLANNED_AHEAD)
        return self._ahead

    def stop(self) -> None:
        """Ends the plan and its thread."""
        self._ahead.close()

    def __iter__(self) -> Iterator[PlannedBatch]:
        for samples in self._ahead:
            self.sent.append(samples)
            yield samples.select(slice(None))  # without polygons, which workers do not need


_Rendered = tuple[np.ndarray, str | StorageError | None]
_Errors = dict[int, str | StorageError]
"""Reason for each row that failed."""
_NOTHING = np.zeros((1, 1, 3), np.uint8)
"""Replaces an image that could not be read: black after padding."""


class _RenderedSamples(torch.utils.data.Dataset[_Rendered]):
    """The data set, indexed by planned batches."""

    def __init__(self, dataset: ValidatedOCRDataset) -> None:
        self.dataset = dataset

    def __getitems__(self, samples: PlannedBatch) -> list[_Rendered]:
        """Returns a batch. Fetching starts for all its images before the first one is decoded."""
        self.dataset.expect(samples.indices.tolist())
        return [self._rendered(sample) for sample in samples]

    def _rendered(self, sample: PlannedSample) -> _Rendered:
        try:
            return self.dataset.render(sample), None
        except (OSError, ValueError) as error:
            path = self.dataset.manifest.image_paths[sample.index]
            is_named = str(error).startswith(path)  # the data set names a file that it could not read or decode
            return _NOTHING, str(error) if is_named else f"{path}: {error}"
        except StorageError as error:  # the main process raises it, without the traceback of this one
            return _NOTHING, error


def _stack(rendered: list[_Rendered], size: int) -> tuple[torch.Tensor, _Errors]:
    """Returns images, (B, size, size, 3) uint8, padded with black on the right and below, and the rows that failed.

    A worker puts them into shared memory here. Otherwise a thread of PyTorch does so, and if that finds /dev/shm full, the main
    process waits for ever.
    """
    images_BHWC = torch.zeros((len(rendered), size, size, 3), dtype=torch.uint8)
    if get_worker_info() is not None:
        images_BHWC.share_memory_()
    for padded, (image, _) in zip(images_BHWC.numpy(), rendered, strict=True):
        padded[: image.shape[0], : image.shape[1]] = image
    return images_BHWC, {row: error for row, (_, error) in enumerate(rendered) if error is not None}
