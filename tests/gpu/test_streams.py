"""Batches read late, while freed memory is overwritten, hold the same bytes

Both forms run the same steps of the real loader. If DALI, PyTorch's allocator or a cache reused memory before all queued work had
read it, the late form would see other bytes: its checksums would differ, or its images would contain NaN.

synchronous   batch | checksum | device synchronised | next batch
late          consumer's stream held up | batch (its copies wait) | earlier batch: checksum, freed, overwritten | next batch
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields

import numpy as np
import pytest
import torch

from dali_pipelines.config import PipelineConfig
from ocr.cache.budget import FreeMemory, plan_tiers
from ocr.cache.entry import entry_layout
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.kept_images import keep_images
from ocr.loaders.batch import Batch
from ocr.loaders.engines import Engine
from ocr.loaders.loader import BatchLoader
from ocr.targets.target_maps import TargetMaps

CPU = torch.device("cpu")
BATCH_SIZE = 4
HOLD = 2
"""Batches that the late form keeps before it reads the first."""
HELD_UP_SECONDS = 0.01
"""Time for which the consumer's stream is busy before each batch of the late form."""
MAX_WAIT_SHARE = 0.5
"""Largest extra time to hand out a batch, as a share of HELD_UP_SECONDS; at 1 the loader waits for the consumer's work."""
MAX_MEAN_DIFFERENCE = 0.01
"""Largest difference between the means of normalised images, if JPEG engines and CUDA cores share a batch: half a level."""
POISON_BYTE = 0xEE
"""Fills freed memory of bytes; memory of floats is filled with NaN."""


@dataclass
class Seen:
    """Checksums, means and waiting times of one form of a run."""

    checksums: list[list[int]] = field(default_factory=list)
    """For each step: images, each target map."""
    num_nan: int = 0
    means: list[float] = field(default_factory=list)
    """Mean of each step's normalised images."""
    wait_seconds: list[float] = field(default_factory=list)
    """Host time in which each batch was handed out."""

    def steps_that_differ(self, other: "Seen") -> list[int]:
        pairs = zip(self.checksums, other.checksums, strict=True)
        return [step for step, (one, another) in enumerate(pairs) if one != another]


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("case", "hw_decoder_load"),
    [("training", 0.0), ("cached validation", 0.0), ("kept images", 0.0), ("training", 0.65)],
)
def test_late_batches_hold_the_same_bytes(case, hw_decoder_load, drawn_set, open_split, device, short, record):
    on_cpu = device.type == "cpu"
    if on_cpu and hw_decoder_load:
        pytest.skip("a CPU has one decoder")
    num_steps = 6 if short else 24 if on_cpu else 200
    pipeline = PipelineConfig(image_size=128 if on_cpu else 320, hw_decoder_load=hw_decoder_load)
    split, cache = {
        "training": ("train", {}),
        "cached validation": ("val", {"cache_transformed_tensors": True}),
        "kept images": ("train", {"cache_decoded_images": True}),
    }[case]
    forms = []
    for is_late in (False, True):
        dataset = open_split(drawn_set, split, pipeline, cache_config=cache)
        loader = _OPENERS[case](dataset, device, poisons=is_late and not on_cpu)
        owns_batches = loader.cache is None  # otherwise they are views of the cache
        forms.append(run_form(_endless(loader), num_steps, device, is_late=is_late, may_overwrite=owns_batches))
        loader.close()
    synchronous, late = forms
    different = synchronous.steps_that_differ(late)
    record("steps", num_steps)
    record("NaN in images", synchronous.num_nan + late.num_nan, at_most=0)
    if hw_decoder_load in (0.0, 1.0):
        record("steps that differ", different, equals=[])
    else:  # which decoder takes an image is not fixed
        apart = max(abs(one - other) for one, other in zip(synchronous.means, late.means, strict=True))
        record("steps that differ", len(different))
        record("largest difference of means", apart, at_most=MAX_MEAN_DIFFERENCE)
    record("wait for a batch, synchronous", [1000 * seconds for seconds in synchronous.wait_seconds], "ms")
    record("wait for a batch, late", [1000 * seconds for seconds in late.wait_seconds], "ms")
    if not on_cpu:
        longer = float(np.median(late.wait_seconds) - np.median(synchronous.wait_seconds))
        record("wait for the busy stream", longer / HELD_UP_SECONDS, "of its delay", at_most=MAX_WAIT_SHARE)


def run_form(
    batches: Iterable[Batch], num_steps: int, device: torch.device, *, is_late: bool, may_overwrite: bool
) -> Seen:
    """Runs the steps in one of the two forms and returns what it saw; checksums are read from the device once, at the end.

    Args:
        may_overwrite: batches are the consumer's own, not views of a cache.
    """
    seen, kept = Seen(), deque[Batch]()
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
            if may_overwrite and device.type == "cpu":  # its owner gets the memory back
                for tensor in tensors:
                    poison(tensor)
            del batch, tensors
            if device.type == "cuda":
                for shape, dtype in shapes:  # the allocator hands out the freed blocks again
                    poison(torch.empty(shape, dtype=dtype, device=device))

    source = iter(batches)
    held_up = HeldUpStream(device) if is_late and device.type == "cuda" else None
    for _ in range(num_steps):
        if held_up is not None:
            held_up.hold_up()
        started = time.perf_counter()
        kept.append(next(source))
        seen.wait_seconds.append(time.perf_counter() - started)
        if not is_late:
            use(kept.popleft())
            if device.type == "cuda":
                torch.cuda.synchronize(device)
        elif len(kept) > HOLD:
            use(kept.popleft())
    while kept:
        use(kept.popleft())
    seen.checksums = torch.stack(sums).tolist()
    seen.num_nan = int(torch.stack(nans).sum())
    seen.means = torch.stack(means).tolist()
    return seen


class HeldUpStream:
    """Queues work of about HELD_UP_SECONDS on the current stream before each batch, at most a few batches ahead of the device:
    further ahead, every launch would wait, whatever the loader does."""

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


def checksum(tensor: torch.Tensor) -> torch.Tensor:
    """Returns an int64 scalar on the tensor's device, computed from its bits and their positions."""
    width = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[tensor.element_size()]
    bits = tensor.contiguous().view(width).flatten().long()
    return (bits * (torch.arange(len(bits), device=tensor.device) % 65_521 + 1)).sum()


def poison(tensor: torch.Tensor) -> None:
    """Fills a tensor with values that no image and no map holds."""
    tensor.fill_(torch.nan if tensor.is_floating_point() else POISON_BYTE)


def _tensors(batch: Batch) -> list[torch.Tensor]:
    return [batch.images, *(getattr(batch.targets, each.name) for each in fields(TargetMaps))]


def _endless(loader: BatchLoader) -> Iterator[Batch]:
    """Yields the batches of one epoch after the other."""
    epoch = 0
    while True:
        loader.set_epoch(epoch)
        yield from loader
        epoch += 1


def _training(dataset: ValidatedOCRDataset, device: torch.device, poisons: bool) -> BatchLoader:
    return BatchLoader(dataset, Engine("dali", device), BATCH_SIZE)


def _cached(dataset: ValidatedOCRDataset, device: torch.device, poisons: bool) -> BatchLoader:
    """The images of the split must fill whole batches: with one shorter batch, none would be a view of the cache in both forms."""
    layout, config = entry_layout(dataset, with_targets=True), dataset.config.cache_config
    tiers = plan_tiers(layout, len(dataset), BATCH_SIZE, config, device, FreeMemory.measured(device))
    if poisons:
        _poison_free_block(tiers.gpu_bytes, device)
    return BatchLoader(dataset, Engine("dali", device), BATCH_SIZE, with_targets=True, tiers=tiers)


def _kept(dataset: ValidatedOCRDataset, device: torch.device, poisons: bool) -> BatchLoader:
    free, manifest = FreeMemory.measured(device), dataset.manifest
    if poisons:
        _poison_free_block(int(3 * np.prod(manifest.original_sizes.astype(np.int64), axis=1).sum()), device)
    budgets = {"ram_budget": free.ram // 4, "device_budget": free.gpu // 4}
    dataset.kept_images = keep_images(dataset.config, manifest, device=device, **budgets)
    return _training(dataset, device, poisons)


_OPENERS = {"training": _training, "cached validation": _cached, "kept images": _kept}


def _poison_free_block(num_bytes: int, device: torch.device) -> None:
    """Makes the next allocation of this size hold poison until it is filled."""
    poison(torch.empty(num_bytes, dtype=torch.uint8, device=device))


def fake_batches(num_buffers: int, num_batches: int = 8) -> Iterator[Batch]:
    """Yields random batches that take turns in `num_buffers` buffers."""
    images = [torch.empty(2, 3, 8, 8, dtype=torch.float16) for _ in range(num_buffers)]
    maps = [torch.empty(2, 8, 8) for _ in range(num_buffers)]
    generator = torch.Generator().manual_seed(0)
    for number in range(num_batches):
        image, shrink_map = images[number % num_buffers], maps[number % num_buffers]
        image.copy_(torch.rand(image.shape, generator=generator))
        shrink_map.copy_(torch.rand(shrink_map.shape, generator=generator))
        yield Batch(image, (), TargetMaps(shrink_map, *(torch.ones(2, 8, 8) for _ in range(3))), None)


def both_forms(num_buffers: int) -> list[Seen]:
    return [run_form(fake_batches(num_buffers), 8, CPU, is_late=late, may_overwrite=True) for late in (False, True)]


def test_batches_with_memory_of_their_own_do_not_differ():
    synchronous, late = both_forms(num_buffers=8)
    assert synchronous.steps_that_differ(late) == []
    assert (synchronous.num_nan, late.num_nan) == (0, 0)
    assert synchronous.means == late.means


def test_memory_reused_too_early_is_found():
    synchronous, late = both_forms(num_buffers=1)
    assert synchronous.steps_that_differ(late) == list(range(8))


def test_poison_that_comes_back_is_found():
    """Each batch is the memory of the first one, as if a loader forgot to fill it."""
    first = next(fake_batches(1))
    batches = (iter(lambda: first, None) for _ in range(2))
    synchronous, late = (run_form(next(batches), 6, CPU, is_late=late, may_overwrite=True) for late in (False, True))
    assert synchronous.steps_that_differ(late) == [1, 2, 3, 4, 5]
    assert synchronous.num_nan == 0
    assert late.num_nan > 0


def test_the_checksum_depends_on_positions_and_bits():
    one = torch.tensor([0.0, 1.0])
    assert checksum(one) != checksum(one.flip(0))
    assert checksum(one) != checksum(torch.tensor([-0.0, 1.0]))


@pytest.mark.gpu
@pytest.mark.parametrize("waits", [True, False])
def test_a_copy_that_does_not_wait_for_its_stream_is_found(waits, gpu_only, device):
    """One stream fills memory while another still reads its former content."""
    filling = torch.cuda.Stream(device)

    def racing() -> Iterator[Batch]:
        shared = torch.empty(4, 3, 512, 512, device=device)
        maps = TargetMaps(*(torch.ones(4, 8, 8, device=device) for _ in range(4)))
        for number in range(20):
            with torch.cuda.stream(filling):
                if waits:
                    filling.wait_stream(torch.cuda.default_stream(device))
                shared.fill_(number)
            if waits:
                torch.cuda.current_stream(device).wait_stream(filling)
            yield Batch(shared.clone(), (), maps, None)

    synchronous, late = (run_form(racing(), 20, device, is_late=late, may_overwrite=True) for late in (False, True))
    assert bool(synchronous.steps_that_differ(late)) != waits
