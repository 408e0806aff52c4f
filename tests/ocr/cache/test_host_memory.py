import contextlib
import mmap

import pytest
import torch

from ocr.cache.budget import TierPlan
from ocr.cache.entry import EntryLayout
from ocr.cache.host_memory import allocate_host_memory
from ocr.cache.store import TensorStore
from ocr.machine import resident_set

GPU = torch.device("cuda", 0)
LAYOUT = EntryLayout(input_size=64, map_size=64, image_dtype="float16")


@pytest.mark.parametrize("image_dtype", ["float16", "uint8"])
@pytest.mark.parametrize("map_size", [None, 5, 16])
def test_the_tensors_of_a_block_fill_its_memory_without_a_gap(image_dtype, map_size):
    layout = EntryLayout(16, map_size, image_dtype)
    memory = allocate_host_memory(3 * layout.num_bytes, gpu=None)
    tensors = layout.carve(memory, 3)
    assert list(tensors) == list(layout.shapes)
    for name, (shape, dtype) in layout.shapes.items():
        assert (tensors[name].shape, tensors[name].dtype) == ((3, *shape), dtype)
        assert tensors[name].data_ptr() % dtype.itemsize == 0
    places = sorted((tensor.data_ptr(), tensor.nbytes) for tensor in tensors.values())
    ends = [place + num_bytes for place, num_bytes in places]
    assert [place for place, _ in places] == [memory.data_ptr(), *ends[:-1]]
    assert ends[-1] == memory.data_ptr() + 3 * layout.num_bytes


def fill(store: TensorStore) -> None:
    """Writes to all entries, since the system gives memory only then."""
    for tensor in store.read(range(store.plan.num_entries)).tensors.values():
        tensor.fill_(1)


def test_entries_in_ram_take_the_planned_bytes_and_are_given_back():
    plan = TierPlan(400, LAYOUT.num_bytes, num_on_gpu=0, num_in_ram=400)  # 400 is no power of two
    before = resident_set()
    store = TensorStore(LAYOUT, plan, torch.device("cpu"))
    fill(store)
    held = resident_set() - before
    assert plan.ram_bytes == 400 * LAYOUT.num_bytes == store.num_bytes["ram"]
    assert held == pytest.approx(plan.ram_bytes, rel=0.1)
    store.close()
    assert store.num_bytes == {"gpu": 0, "ram": 0}
    assert resident_set() - before < 0.1 * plan.ram_bytes


def test_a_batch_in_use_outlives_its_store():
    store = TensorStore(LAYOUT, TierPlan(2, LAYOUT.num_bytes, 0, num_in_ram=2), torch.device("cpu"))
    images = store.read(range(2)).tensors["images"].fill_(3)
    store.close()
    del store
    assert (images == 3).all()


class RecordingRuntime:
    """Stands in for the CUDA runtime, which this machine has not got, and notes which memory it would pin."""

    def __init__(self, error: int = 0) -> None:
        self.error = error
        self.pinned: dict[int, int] = {}

    def cudaHostRegister(self, address: int, num_bytes: int, flags: int) -> int:  # the runtime's name
        self.pinned[address] = num_bytes
        return self.error

    def cudaHostUnregister(self, address: int) -> int:
        del self.pinned[address]
        return 0


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> RecordingRuntime:
    runtime = RecordingRuntime()
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    return runtime


def test_exactly_the_planned_bytes_are_pinned_until_the_last_view_is_gone(runtime):
    memory = allocate_host_memory(5_000_001, GPU)
    address = memory.data_ptr()
    assert runtime.pinned == {address: 5_000_001}
    assert address % mmap.PAGESIZE == 0
    view = memory[100:].view(1, -1)
    del memory
    assert runtime.pinned == {address: 5_000_001}
    del view
    assert runtime.pinned == {}


def test_memory_that_cannot_be_pinned_is_an_error_that_names_the_budget(runtime):
    runtime.error = 2
    with pytest.raises(RuntimeError, match=r"0\.01 GB of RAM .* \(cudaError 2\): set cache_config\.ram_budget"):
        allocate_host_memory(10_000_000, GPU)


def test_no_entries_need_no_memory():
    assert allocate_host_memory(0, GPU).shape == (0,)


@pytest.mark.gpu
def test_pinned_memory_is_recognised_and_copied_by_a_gpu():
    memory = allocate_host_memory(4_000_001, GPU)
    memory.random_(0, 256)
    assert memory.is_pinned()
    assert torch.equal(memory.to(GPU, non_blocking=True).cpu(), memory)
