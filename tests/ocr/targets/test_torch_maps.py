from collections import Counter
from dataclasses import fields

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ocr.polygons import PolygonBatch
from ocr.targets.agreement import random_polygons
from ocr.targets.config import TargetConfig
from ocr.targets.maps import make_targets
from ocr.targets.torch_maps import make_targets_torch

SIZE = (192, 256)


class CountOperations(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture
def batch() -> PolygonBatch:
    return random_polygons(np.random.default_rng(1), num_images=4, polygons_per_image=15, size=SIZE)


def test_chunks_do_not_change_the_maps(batch: PolygonBatch) -> None:
    whole = make_targets_torch(batch, SIZE, TargetConfig(), "cpu")
    # Smaller than a window, and a divisor of no size.
    chunked = make_targets_torch(batch, SIZE, TargetConfig(), "cpu", items_per_chunk=1013)
    for field in fields(whole):
        assert torch.equal(getattr(whole, field.name), getattr(chunked, field.name)), field.name


def test_no_operation_waits_for_the_device(batch: PolygonBatch) -> None:
    with CountOperations() as operations:
        make_targets_torch(batch, SIZE, TargetConfig(), "cpu")
    waiting = {"_local_scalar_dense", "item", "nonzero", "masked_select", "equal", "is_nonzero", "unique"}
    assert not waiting & set(operations.counts)
    assert operations.counts["scatter_reduce_"] == 2


def test_sizes_never_depend_on_values_of_the_device(batch: PolygonBatch) -> None:
    # The meta device holds no values, so an operation that needs one would fail.
    maps = make_targets_torch(batch, SIZE, TargetConfig(), "meta")
    assert maps.thresh_map.shape == (4, *SIZE)


def test_number_of_operations_does_not_grow_with_images_or_polygons(batch: PolygonBatch) -> None:
    def num_operations(polygons_input: PolygonBatch) -> int:
        with CountOperations() as operations:
            make_targets_torch(polygons_input, SIZE, TargetConfig(), "cpu")
        return operations.counts.total()

    assert num_operations(batch.select([0, 1, 2, 3, 0, 1, 2, 3])) == num_operations(batch)


@pytest.mark.gpu
@pytest.mark.parametrize("stride", [1, 4])
def test_gpu_maps_equal_cpu_maps_without_a_sync(batch: PolygonBatch, stride: int) -> None:
    config = TargetConfig.model_validate({"map_stride": stride})
    make_targets(batch, SIZE, config, "cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        maps = make_targets(batch, SIZE, config, "cuda")
        maps.blanked(torch.tensor([False, False, False, True]))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = make_targets_torch(batch, SIZE, config, "cpu")
    for field in fields(maps):
        difference = (getattr(maps, field.name).cpu() - getattr(expected, field.name)).abs()
        assert (difference > 1e-4).float().mean() < 1e-4, field.name


@pytest.mark.gpu
def test_gpu_maps_are_bit_equal_in_every_run(batch: PolygonBatch) -> None:
    one, other = (make_targets(batch, SIZE, TargetConfig(), "cuda") for _ in range(2))
    for field in fields(one):
        assert torch.equal(getattr(one, field.name), getattr(other, field.name)), field.name
