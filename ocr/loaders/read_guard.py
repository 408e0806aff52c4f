"""Ends a run whose images can no longer be read, in place of training on black images or scoring them; waits for them first."""

import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from dali_pipelines.source import ImageBatch, PlannedBatch, PlannedBatches, SampleError
from ocr.datasets.base import ValidatedOCRDataset
from ocr.errors import StorageError

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5


class ReadGuard:
    """Watches the images of a split: single bad files cost their slots, vanished data ends the run.

    The limits are `max_unreadable_batch` and `max_unreadable_epoch` of the split's configuration. One image alone never ends a run.

    Args:
        batch_size: largest batch of a plan.
        load_now: makes one batch while another is under way.
        failures: reason for each file that failed, by path; files that come back are removed.
    """

    def __init__(
        self,
        dataset: ValidatedOCRDataset,
        batch_size: int,
        load_now: Callable[[PlannedBatch], ImageBatch],
        failures: dict[str, str],
    ) -> None:
        self._config, self._manifest = dataset.config, dataset.manifest
        self._batch_size, self._load_now, self._failures = batch_size, load_now, failures
        self._num_images = 0
        """Images of the largest plan so far. Plans that repair a cache have fewer."""
        self._failed: set[int] = set()
        """Images of this epoch that could not be read."""
        self._has_returned = False
        """Files came back in this epoch, so batches prepared before that may fail and are made again."""

    def watch(
        self, load: Callable[[PlannedBatches, int], Iterator[ImageBatch]], plan: PlannedBatches
    ) -> Iterator[ImageBatch]:
        """Yields the batches of a plan. A batch that failed while files were missing is made again.

        Args:
            load: yields the batches of a plan from a step on; it may be called again.

        Raises:
            StorageError: more images than the limits allow cannot be read.
            SampleError: one image cannot be read, and failures are not skipped.
        """
        self._failed, self._has_returned = set(), False
        self._num_images = max(self._num_images, min(len(plan) * self._batch_size, len(self._manifest)))
        step, batches, step_of_retry = 0, load(plan, 0), -1
        while step < len(plan):
            try:
                batch = next(batches, None)
            except SampleError:
                planned = plan.batch(step)
                missing = self._missing_file(planned.indices.tolist())
                if missing is None and step != step_of_retry:
                    step_of_retry = step  # the file may have come back since it could not be read
                elif missing is None or os.path.isdir(self._folder_of(missing)) or not self._comes_back(missing):
                    raise
                batches = load(plan, step)
                continue
            if batch is None:  # the image loader was released
                return
            yield self._settled(batch, plan, step) if np.count_nonzero(batch.samples.has_failed) else batch
            step += 1

    def _settled(self, batch: ImageBatch, plan: PlannedBatches, step: int) -> ImageBatch:
        missing = self._missing_file(_failed_indices(batch.samples))
        if missing is not None and (self._are_too_many(batch.samples) or not os.path.isdir(self._folder_of(missing))):
            if not self._comes_back(missing):
                raise self._error(batch.samples, plan.epoch, step)
            self._has_returned = True
        if self._has_returned:
            self._forget_failures(batch.samples)
            batch = self._load_now(plan.batch(step))
        if self._are_too_many(batch.samples):
            raise self._error(batch.samples, plan.epoch, step)
        self._failed.update(_failed_indices(batch.samples))
        return batch

    def _forget_failures(self, samples: PlannedBatch) -> None:
        """Takes the files out of the run's report. Those that fail again are added again."""
        for index in _failed_indices(samples):
            self._failures.pop(self._manifest.image_paths[index], None)

    def _missing_file(self, indices: list[int]) -> str | None:
        """Returns the first file of these images that is not there; None if they are all there, or not on this machine."""
        files = (self._manifest.images.local_file(index) for index in indices)
        return next((file for file in files if file is not None and not os.path.exists(file)), None)

    def _are_too_many(self, samples: PlannedBatch) -> bool:
        failed = _failed_indices(samples)
        num_rows = int(np.count_nonzero(samples.has_failed))
        # A smaller batch at the end of an epoch, or one that repairs a cache, is no sample of the whole.
        whole_batch = min(self._batch_size, self._num_images)
        is_batch_lost = len(set(failed)) > 1 and num_rows >= self._config.max_unreadable_batch * whole_batch
        num_allowed = max(1.0, self._config.max_unreadable_epoch * self._num_images)
        return is_batch_lost or len(self._failed.union(failed)) > num_allowed

    def _comes_back(self, file: str) -> bool:
        """Returns whether a missing file is there again within the configured time."""
        seconds = self._config.unreadable_wait_seconds
        log.warning("%s is missing; waiting up to %g s for it to come back", file, seconds)
        deadline = time.monotonic() + seconds
        while not os.path.exists(file):
            if time.monotonic() >= deadline:
                return False
            time.sleep(min(POLL_SECONDS, seconds))
        log.warning("%s is back; continuing", file)
        return True

    def _folder_of(self, file: str) -> str:
        """Returns the folder of images, or that of the shards."""
        folder = self._config.image_path
        return folder if Path(file).is_relative_to(folder) else os.path.dirname(file)

    def _error(self, samples: PlannedBatch, epoch: int, step: int) -> StorageError:
        failed = _failed_indices(samples)
        path = self._manifest.image_paths[failed[0]]
        folder = self._folder_of(self._manifest.images.local_file(failed[0]) or path)
        num_failed = len(self._failed.union(failed))
        return StorageError(
            f"{folder}: {len(failed)} of the {len(samples)} images of batch {step} in epoch {epoch} cannot be read any more, "
            f"{num_failed} of {self._num_images} in this epoch. The first is {path}: "
            f"{self._failures.get(path, 'unknown reason')}. Make the files readable and resume the run. "
            "max_unreadable_batch and max_unreadable_epoch in the split's config set how many a run tolerates"
        )


def _failed_indices(samples: PlannedBatch) -> list[int]:
    return samples.indices[samples.has_failed].tolist()
