import pytest
import torch

from ocr.cache.budget import FreeMemory, free_on_disk, plan_tiers
from ocr.cache.entry import EntryLayout
from ocr.cache.files import EntryFiles, list_entries
from ocr.cache.store import TensorStore
from ocr.datasets.schemas import CacheConfig

LAYOUT = EntryLayout(input_size=64, map_size=32, image_dtype="float16")
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
MUCH = FreeMemory(gpu=10**9, ram=10**9)


def plan(num_gpu: int, num_ram: int, device: torch.device, num_entries: int = 20):
    config = CacheConfig(device_budget=num_gpu * LAYOUT.num_bytes, ram_budget=num_ram * LAYOUT.num_bytes)
    tiers = plan_tiers(LAYOUT, num_entries, 4, config, device, MUCH)
    return tiers.num_on_gpu, tiers.num_in_ram


def test_entries_fill_the_gpu_first_and_then_ram():
    assert plan(100, 100, GPU) == (20, 0)
    assert plan(8, 100, GPU) == (8, 12)
    assert plan(8, 4, GPU) == (8, 4)
    assert plan(0, 0, GPU) == (0, 0)


def test_a_tier_ends_with_a_whole_batch():
    assert plan(11, 6, GPU) == (8, 4)
    assert plan(3, 3, GPU) == (0, 0)


def test_the_last_batch_may_be_short():
    assert plan(18, 0, GPU, num_entries=18) == (18, 0)
    assert plan(8, 10, GPU, num_entries=18) == (8, 10)


def test_without_a_gpu_ram_is_the_first_tier():
    assert plan(100, 100, CPU) == (0, 20)
    assert plan(100, 9, CPU) == (0, 8)


def test_without_a_budget_half_of_the_free_memory_is_taken():
    free = FreeMemory(gpu=16 * LAYOUT.num_bytes, ram=9 * LAYOUT.num_bytes)
    tiers = plan_tiers(LAYOUT, 20, 4, CacheConfig(), GPU, free)
    assert (tiers.num_on_gpu, tiers.num_in_ram) == (8, 4)


def test_on_a_planned_gpu_all_but_a_tenth_of_the_rest_is_taken():
    free = FreeMemory(gpu=9 * LAYOUT.num_bytes, ram=0, is_gpu_planned=True)
    assert plan_tiers(LAYOUT, 20, 4, CacheConfig(), GPU, free).num_on_gpu == 8
    assert free.gpu_budget(None) == int(0.9 * 9 * LAYOUT.num_bytes)
    assert free.gpu_budget(5) == 5


def test_taking_more_than_is_free_leaves_zero():
    assert FreeMemory(gpu=10, ram=10).less(gpu=11, ram=4) == FreeMemory(gpu=0, ram=6)


def test_a_budget_never_exceeds_the_free_memory():
    config = CacheConfig(device_budget="1TB", ram_budget="1TB")
    tiers = plan_tiers(LAYOUT, 20, 4, config, GPU, FreeMemory(gpu=9 * LAYOUT.num_bytes, ram=5 * LAYOUT.num_bytes))
    assert (tiers.num_on_gpu, tiers.num_in_ram) == (8, 4)


def test_entries_of_earlier_runs_do_not_reduce_the_disk_budget(tmp_path):
    (tmp_path / "old.entry").write_bytes(bytes(10**7))
    with_entries = free_on_disk(tmp_path)
    (tmp_path / "old.entry").unlink()
    assert with_entries == pytest.approx(free_on_disk(tmp_path), abs=5 * 10**6)


def test_the_disk_tier_needs_a_folder(tmp_path):
    assert plan_tiers(LAYOUT, 20, 4, CacheConfig(), CPU, MUCH).disk_budget == 0
    config = CacheConfig(directory=str(tmp_path / "not" / "there"), disk_budget="3MB")
    assert plan_tiers(LAYOUT, 20, 4, config, CPU, MUCH).disk_budget == 3_000_000
    assert plan_tiers(LAYOUT, 20, 4, CacheConfig(directory=str(tmp_path)), CPU, MUCH).disk_budget > 0


def test_the_store_takes_the_predicted_bytes(tmp_path):
    tiers = plan_tiers(LAYOUT, 18, 4, CacheConfig(ram_budget=13 * LAYOUT.num_bytes), CPU, MUCH)
    store = TensorStore(LAYOUT, tiers, CPU, EntryFiles(tmp_path, 10**6))
    assert store.num_bytes == {"gpu": 0, "ram": tiers.ram_bytes, "disk": 0}
    assert tiers.ram_bytes == 12 * LAYOUT.num_bytes


def test_ranks_of_a_machine_share_its_memory():
    alone, one_of_two = FreeMemory.measured(CPU), FreeMemory.measured(CPU, num_ranks=2)
    assert one_of_two.ram == pytest.approx(alone.ram / 2, rel=0.2)


def test_an_entry_that_another_run_deletes_meanwhile_counts_as_nothing(tmp_path):
    (tmp_path / "one.entry").write_bytes(bytes(100))
    (tmp_path / "gone.entry").symlink_to(tmp_path / "deleted")  # listed, but without a size, like a file just deleted
    assert [size for _, size, _ in list_entries(tmp_path)] == [100]
    assert free_on_disk(tmp_path) > 100
