"""A loader that gives memory away too early is found out."""

from collections.abc import Iterator

import pytest
import torch

from benchmarks.gpu_check.streams import checksum, compared, seen
from ocr.loaders.batch import Batch
from ocr.targets import TargetMaps

CPU = torch.device("cpu")


def batches(num_buffers: int, num_batches: int = 8) -> Iterator[Batch]:
    """Random batches, in so many pieces of memory that take turns."""
    images = [torch.empty(2, 3, 8, 8, dtype=torch.float16) for _ in range(num_buffers)]
    maps = [torch.empty(2, 8, 8) for _ in range(num_buffers)]
    generator = torch.Generator().manual_seed(0)
    for number in range(num_batches):
        image, shrink_map = images[number % num_buffers], maps[number % num_buffers]
        image.copy_(torch.rand(image.shape, generator=generator))
        shrink_map.copy_(torch.rand(shrink_map.shape, generator=generator))
        yield Batch(image, (), TargetMaps(shrink_map, *(torch.ones(2, 8, 8) for _ in range(3))), None)


def both_forms(num_buffers: int, may_overwrite: bool = True):
    forms = (
        seen(batches(num_buffers), 8, CPU, is_late=is_late, may_overwrite=may_overwrite) for is_late in (False, True)
    )
    return compared(*forms)


def test_batches_with_memory_of_their_own_are_the_same_late():
    assert both_forms(8) == {"different_steps": [], "nan": [0, 0], "largest_difference_of_means": 0.0}


def test_memory_that_is_used_again_too_early_is_found():
    assert both_forms(1)["different_steps"] == list(range(8))


def test_poison_that_comes_back_is_found():
    """Each batch hands out the memory of the first one, as if filling it had been forgotten."""
    first = next(batches(1))

    def stale() -> Iterator[Batch]:
        while True:
            yield first

    found = compared(*(seen(stale(), 6, CPU, is_late=is_late, may_overwrite=True) for is_late in (False, True)))
    assert found["different_steps"] == [1, 2, 3, 4, 5]
    assert found["nan"][0] == 0
    assert found["nan"][1] > 0


def test_the_checksum_knows_places_and_bits():
    one = torch.tensor([0.0, 1.0])
    assert checksum(one) != checksum(one.flip(0))
    assert checksum(one) != checksum(torch.tensor([-0.0, 1.0]))


@pytest.mark.gpu
@pytest.mark.parametrize("waits", [True, False])
def test_a_copy_that_does_not_wait_for_its_stream_is_found(waits):
    """Memory that one stream fills while another still reads what was there before."""
    device = torch.device("cuda", 0)
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

    forms = (seen(racing(), 20, device, is_late=is_late, may_overwrite=True) for is_late in (False, True))
    assert bool(compared(*forms)["different_steps"]) != waits
