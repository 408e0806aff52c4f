"""The plain baseline of `loader=torch`: PyTorch workers decode and resample what the plan says."""

import logging
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch.utils.data import DataLoader

from dali_pipelines.normalize import normalize_levels
from dali_pipelines.source import ImageBatch, PlannedBatches, PlannedSample, SampleError
from ocr.datasets.base import ValidatedOCRDataset
from ocr.errors import StorageError

log = logging.getLogger(__name__)


class TorchLoader:
    """The plain baseline: PyTorch workers decode and resample, the main process normalises on the device.

    Workers send uint8: a quarter of the bytes that float32 images would take between processes. They are forked at the first
    call of `batches`, so what the data set keeps in memory by then is theirs too.

    Args:
        levels: images are uint8 levels, not normalised; evaluation only.
    """

    def __init__(
        self,
        dataset: ValidatedOCRDataset,
        *,
        num_workers: int,
        device: torch.device,
        skip_failures: bool,
        levels: bool = False,
    ) -> None:
        if levels and dataset.planner.training:
            raise ValueError("levels=True gives evaluation inputs; this data set is planned for training")
        self.dataset = dataset
        self.device = device
        self.skip_failures = skip_failures
        self.failures: dict[str, str] = {}
        normalised_dtype = torch.float16 if dataset.planner.config.wants_float16(device.type) else torch.float32
        self.dtype = torch.uint8 if levels else normalised_dtype
        self._finisher = dataset.finisher(self.dtype)
        self._num_workers = num_workers
        self._sampler = _PlanSampler()
        self._loader: DataLoader[_Rendered] | None = None

    def batches(self, plan: PlannedBatches, first_step: int = 0) -> Iterator[ImageBatch]:
        """The batches of `plan` from `first_step` on."""
        if self._loader is None:
            self._loader = self._build()
        self._sampler.start(plan, first_step)
        for images, samples in self._loader:
            checked = tuple(self._checked(sample, error) for sample, error in samples)
            yield ImageBatch(self._finished(images), checked)

    def release(self) -> None:
        """Ends the worker processes; no iteration may be under way. The next one starts new ones."""
        self._loader = None
        self._finisher.memory.release()

    def _build(self) -> "DataLoader[_Rendered]":
        return DataLoader(
            _RenderedSamples(self.dataset),
            batch_sampler=self._sampler,  # type: ignore[arg-type]  # planned samples take the place of indices
            num_workers=self._num_workers,
            collate_fn=partial(_stack, size=self.dataset.planner.input_size),
            pin_memory=self.device.type == "cuda",
            persistent_workers=self._num_workers > 0,
            multiprocessing_context="fork" if self._num_workers else None,  # kept images are shared, not copied
        )

    def _finished(self, images_BHWC: torch.Tensor) -> torch.Tensor:
        if self.device.type == "cpu":
            return self._finisher.finish(list(images_BHWC.numpy()))
        levels_BCHW = images_BHWC.to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        if self.dtype == torch.uint8:
            return levels_BCHW.contiguous()
        config = self.dataset.planner.config
        return normalize_levels(levels_BCHW, config.mean, config.std, dtype=self.dtype)

    def _checked(self, sample: PlannedSample, error: str | StorageError | None) -> PlannedSample:
        if error is None:
            return sample
        if isinstance(error, StorageError):
            raise error
        if not self.skip_failures:
            raise SampleError(error)
        path = self.dataset.manifest.image_paths[sample.index]
        if path not in self.failures:
            log.error("left out: %s", error)
        self.failures[path] = error
        return sample.as_failed()


class _PlanSampler:
    """The plan's batches; drawn in the main process, so workers need not know the epoch."""

    def __init__(self) -> None:
        self._batches: Iterator[Sequence[PlannedSample]] = iter(())

    def start(self, plan: PlannedBatches, first_step: int) -> None:
        self._batches = (plan.batch(step) for step in range(first_step, len(plan)))

    def __iter__(self) -> Iterator[Sequence[PlannedSample]]:
        return self._batches


_Rendered = tuple[np.ndarray, PlannedSample, str | StorageError | None]
_NOTHING = np.zeros((1, 1, 3), np.uint8)
"""In place of an image that could not be read: black, once it is padded."""


class _RenderedSamples(torch.utils.data.Dataset[_Rendered]):
    """A data set whose index is a planned sample."""

    def __init__(self, dataset: ValidatedOCRDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, sample: PlannedSample) -> _Rendered:
        try:
            return self.dataset.render(sample), sample, None
        except (OSError, ValueError) as error:
            path = self.dataset.manifest.image_paths[sample.index]
            is_named = str(error).startswith(path)  # by the data set, where the file could not be read or decoded
            return _NOTHING, sample, str(error) if is_named else f"{path}: {error}"
        except StorageError as error:  # for the main process, which raises it without this one's traceback
            return _NOTHING, sample, error

    def __getitems__(self, samples: Sequence[PlannedSample]) -> list[_Rendered]:
        """A batch: what is far away is on its way before the first image is decoded."""
        self.dataset.expect([sample.index for sample in samples])
        return [self[sample] for sample in samples]


def _stack(
    rendered: list[_Rendered], size: int
) -> tuple[torch.Tensor, list[tuple[PlannedSample, str | StorageError | None]]]:
    """(B, size, size, 3) uint8, padded with black, right and below; and the rest."""
    images_BHWC = np.zeros((len(rendered), size, size, 3), np.uint8)
    for padded, (image, _, _) in zip(images_BHWC, rendered, strict=True):
        padded[: image.shape[0], : image.shape[1]] = image
    return torch.from_numpy(images_BHWC), [(sample, error) for _, sample, error in rendered]
