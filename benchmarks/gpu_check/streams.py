"""Batches used late and beside freed memory that is overwritten, against batches used one by one with the device at rest.

Both forms run the same steps of the real loader. If DALI, torch's allocator or a cache gave memory away before all that was queued
had used it, the late form would see other bytes: its checksums would differ, or there would be NaN in its images.

synchronous   batch | checksum | device synchronised | next batch
late          consumer's stream held up | batch (its copies wait) | batches of before: checksum, freed, overwritten | next batch
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import torch

from benchmarks.gpu_check.figures import Figures, Keep
from benchmarks.gpu_check.images import dataset_of, device_of, drawn
from benchmarks.gpu_check.settings import CheckSettings
from dali_pipelines.config import PipelineConfig
from ocr.cache.budget import FreeMemory, plan_tiers
from ocr.cache.entry import entry_layout
from ocr.datasets.kept_images import keep_images
from ocr.loaders.batch import Batch
from ocr.loaders.engines import Engine
from ocr.loaders.loader import BatchLoader

HOLD = 2
"""Batches that the late form has in hand before it looks at the first."""
HELD_UP_SECONDS = 0.01
"""What the consumer's stream sleeps before each batch of the late form."""
POISON_BYTE = 0xEE
"""In memory of bytes; in memory of floats it is NaN."""


@dataclass
class Seen:
    """One form's run."""

    checksums: list[list[int]] = field(default_factory=list)
    """Of each step: images, each target map."""
    num_nan: int = 0
    means: list[float] = field(default_factory=list)
    """Of each step's images, normalised."""
    wait_seconds: list[float] = field(default_factory=list)
    """Host time that each batch took to be handed out."""


def measure(settings: CheckSettings, keep: Keep) -> None:
    device, root = device_of(settings), drawn(settings)
    num_steps = 6 if settings.short else 24 if settings.cpu else 200
    side = 128 if settings.cpu else 320
    cases: list[Figures] = []
    for name, load in (("training", 0.0), ("cached validation", 0.0), ("kept images", 0.0), ("training", 0.65)):
        if device.type == "cpu" and load:
            continue  # one decoder
        pipeline = PipelineConfig(image_size=side, hw_decoder_load=load)
        open_loader = _OPENERS[name]
        forms = []
        for is_late in (False, True):
            loader = open_loader(root, pipeline, device, is_late)
            forms.append(seen(_endless(loader), num_steps, device, is_late=is_late, may_overwrite=loader.cache is None))
            loader.close()
        cases.append(
            {"case": name, "hw_decoder_load": load, "steps": num_steps, "batch_size": loader.batch_size}
            | compared(*forms)
            | {
                "wait_seconds": {
                    "synchronous": float(np.median(forms[0].wait_seconds)),
                    "late": float(np.median(forms[1].wait_seconds)),
                }
            }
        )
        keep({"held_up_seconds": HELD_UP_SECONDS, "hold": HOLD, "cases": cases})


def seen(batches: Iterable[Batch], num_steps: int, device: torch.device, *, is_late: bool, may_overwrite: bool) -> Seen:
    """Runs so many steps in one of the two forms; the sums are read from the device once, at the end.

    Args:
        may_overwrite: batches are the consumer's own, not views of a cache.
    """
    result, in_hand = Seen(), deque[Batch]()
    sums: list[torch.Tensor] = []
    nans: list[torch.Tensor] = []
    means: list[torch.Tensor] = []

    def use(batch: Batch) -> None:
        tensors = _tensors(batch)
        sums.append(torch.stack([checksum(tensor) for tensor in tensors]))
        nans.append(batch.images.isnan().sum())
        means.append(batch.images.float().mean())
        if is_late:
            shapes = [(tensor.shape, tensor.dtype) for tensor in tensors]
            if may_overwrite and device.type == "cpu":  # it goes back to whoever lent it
                for tensor in tensors:
                    poison(tensor)
            del batch, tensors
            if device.type == "cuda":
                for shape, dtype in shapes:  # the allocator hands the freed blocks out again
                    poison(torch.empty(shape, dtype=dtype, device=device))

    source = iter(batches)
    held_up = _HeldUp(device) if is_late and device.type == "cuda" else None
    for _ in range(num_steps):
        if held_up is not None:
            held_up.hold_up()
        started = time.perf_counter()
        in_hand.append(next(source))
        result.wait_seconds.append(time.perf_counter() - started)
        if not is_late:
            use(in_hand.popleft())
            if device.type == "cuda":
                torch.cuda.synchronize(device)
        elif len(in_hand) > HOLD:
            use(in_hand.popleft())
    while in_hand:
        use(in_hand.popleft())
    result.checksums = torch.stack(sums).tolist()
    result.num_nan = int(torch.stack(nans).sum())
    result.means = torch.stack(means).tolist()
    return result


def compared(synchronous: Seen, late: Seen) -> Figures:
    """Where the late form saw other bytes."""
    pairs = zip(synchronous.checksums, late.checksums, strict=True)
    return {
        "different_steps": [step for step, (one, other) in enumerate(pairs) if one != other],
        "nan": [synchronous.num_nan, late.num_nan],
        "largest_difference_of_means": max(
            abs(one - other) for one, other in zip(synchronous.means, late.means, strict=True)
        ),
    }


def checksum(tensor: torch.Tensor) -> torch.Tensor:
    """Scalar int64 on the tensor's device, of its bytes and their places."""
    width = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[tensor.element_size()]
    bits = tensor.contiguous().view(width).flatten().long()
    return (bits * (torch.arange(len(bits), device=tensor.device) % 65_521 + 1)).sum()


def poison(tensor: torch.Tensor) -> None:
    """Fills it with what is no image and no map."""
    tensor.fill_(torch.nan if tensor.is_floating_point() else POISON_BYTE)


class _HeldUp:
    """Queues work of about HELD_UP_SECONDS on the current stream before each batch, a few batches ahead of the device at most: with
    more, launching anything would wait, whatever the loader does."""

    def __init__(self, device: torch.device) -> None:
        self._done = deque[torch.cuda.Event]()
        started, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        trial = 10_000_000
        with torch.cuda.device(device):
            for event in (started, ended):
                torch.cuda._sleep(trial)  # there is no public way
                event.record()
            ended.synchronize()
        self._cycles = int(HELD_UP_SECONDS * 1000 / started.elapsed_time(ended) * trial)

    def hold_up(self) -> None:
        if len(self._done) > HOLD:
            self._done.popleft().synchronize()
        torch.cuda._sleep(self._cycles)
        self._done.append(torch.cuda.Event())
        self._done[-1].record()


def _tensors(batch: Batch) -> list[torch.Tensor]:
    if batch.targets is None:
        raise ValueError("the loaders of this step make targets")
    return [batch.images, *(getattr(batch.targets, each.name) for each in fields(batch.targets))]


def _endless(loader: BatchLoader) -> Iterator[Batch]:
    """Epoch after epoch."""
    epoch = 0
    while True:
        loader.set_epoch(epoch)
        yield from loader
        epoch += 1


def _training(root: Path, pipeline: PipelineConfig, device: torch.device, is_late: bool) -> BatchLoader:
    dataset = dataset_of(root, "train", pipeline, training=True)
    return BatchLoader(dataset, Engine("dali", device), batch_size=4)


def _cached(root: Path, pipeline: PipelineConfig, device: torch.device, is_late: bool) -> BatchLoader:
    """The last batch must not be shorter: then no batch of both forms would."""
    dataset = dataset_of(root, "val", pipeline, training=False, cache_config={"cache_transformed_tensors": True})
    layout, config = entry_layout(dataset, with_targets=True), dataset.config.cache_config
    tiers = plan_tiers(layout, len(dataset), 4, config, device, FreeMemory.measured(device))
    if is_late and device.type == "cuda":
        _poison_free_blocks(tiers.gpu_bytes, device)
    return BatchLoader(dataset, Engine("dali", device), batch_size=4, with_targets=True, tiers=tiers)


def _kept(root: Path, pipeline: PipelineConfig, device: torch.device, is_late: bool) -> BatchLoader:
    dataset = dataset_of(root, "train", pipeline, training=True, cache_config={"cache_decoded_images": True})
    free = FreeMemory.measured(device)
    if is_late and device.type == "cuda":
        _poison_free_blocks(int(3 * np.prod(dataset.manifest.original_sizes.astype(np.int64), axis=1).sum()), device)
    dataset.keep_images(
        keep_images(
            dataset.config,
            dataset.manifest,
            device=device,
            ram_budget=free.ram // 4,
            device_budget=free.gpu // 4,
        )
    )
    return BatchLoader(dataset, Engine("dali", device), batch_size=4)


def _poison_free_blocks(num_bytes: int, device: torch.device) -> None:
    """What is allocated next, of this size, holds poison until it is filled."""
    poison(torch.empty(num_bytes, dtype=torch.uint8, device=device))


_OPENERS: dict[str, Callable[[Path, PipelineConfig, torch.device, bool], BatchLoader]] = {
    "training": _training,
    "cached validation": _cached,
    "kept images": _kept,
}
