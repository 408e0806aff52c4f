import os
from pathlib import Path

import pytest
import torch

from ocr.cache.budget import TierPlan
from ocr.cache.entry import EntryLayout, Tensors
from ocr.cache.files import EntryFiles
from ocr.cache.store import TensorStore

LAYOUT = EntryLayout(input_size=4, map_size=None, image_dtype="uint8")
NUM_ENTRIES = 4
ALL = range(NUM_ENTRIES)


def key_of(number: int) -> bytes:
    return number.to_bytes(32, "big")


KEYS = [key_of(entry) for entry in ALL]


def make_store(num_in_ram: int = NUM_ENTRIES, folder: Path | None = None) -> TensorStore:
    plan = TierPlan(NUM_ENTRIES, LAYOUT.num_bytes, num_on_gpu=0, num_in_ram=num_in_ram, disk_budget=10**6)
    files = None if folder is None else EntryFiles(folder, plan.disk_budget)
    store = TensorStore(LAYOUT, plan, torch.device("cpu"), files)
    store.refresh(KEYS)
    return store


def level_images(levels: list[int]) -> Tensors:
    """One entry of each level."""
    return {"images": torch.tensor(levels, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 4, 4).contiguous()}


def levels_of(tensors: Tensors) -> list[int]:
    return tensors["images"][:, 0, 0, 0].tolist()


def fill(store: TensorStore, keep: bool = True) -> None:
    """Fills what is missing with the levels 10, 11, 12, 13."""
    stored = store.read(ALL)
    store.fill(stored, level_images([10 + row for row in stored.missing]), [keep] * len(stored.missing))
    store.flush()


def test_filled_entries_are_served_as_a_view():
    store = make_store()
    assert store.read(ALL).missing == [0, 1, 2, 3]
    assert not store.is_view(ALL)
    fill(store)
    assert store.is_view(ALL)
    found = store.read(ALL)
    assert (levels_of(found.tensors), found.missing) == ([10, 11, 12, 13], [])
    assert store.read(ALL).tensors["images"].data_ptr() == found.tensors["images"].data_ptr()


@pytest.mark.gpu
@pytest.mark.parametrize("known", [(), (1, 2)], ids=["all rows missing", "two rows known"])
def test_filling_ram_from_a_gpu_does_not_make_the_host_wait(known):
    device = torch.device("cuda", torch.cuda.current_device())
    plan = TierPlan(NUM_ENTRIES, LAYOUT.num_bytes, num_on_gpu=0, num_in_ram=NUM_ENTRIES, disk_budget=0)
    store = TensorStore(LAYOUT, plan, device)
    store.refresh([KEYS[entry] if entry in known else None for entry in ALL])
    on_gpu = {name: tensor.to(device) for name, tensor in level_images([10, 11, 12, 13]).items()}
    store.fill(store.read(ALL), on_gpu, [True] * NUM_ENTRIES)
    store.refresh(KEYS)
    stored = store.read(ALL)
    assert stored.missing == [entry for entry in ALL if entry not in known]
    made = {name: tensor.to(device) for name, tensor in level_images([20 + row for row in stored.missing]).items()}
    torch.cuda.synchronize(device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        filled = store.fill(stored, made, [True] * len(stored.missing))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = [10 + entry if entry in known else 20 + entry for entry in ALL]
    assert levels_of(filled) == expected
    assert levels_of(store.upload(store.read(ALL).tensors)) == expected


def test_entries_under_another_key_or_without_one_are_missing():
    store = make_store()
    fill(store)
    store.refresh([KEYS[0], key_of(77), None, KEYS[3]])
    assert store.read(ALL).missing == [1, 2]
    assert store.resident_entries == [0, 3]
    store.refresh(KEYS)
    assert store.read(ALL).missing == [1, 2]  # their memory may hold anything


@pytest.mark.parametrize(("keep", "num_kept"), [(False, 0), (True, NUM_ENTRIES)])
def test_entries_are_kept_if_they_may_be(keep, num_kept, tmp_path):
    store = make_store(folder=tmp_path)
    fill(store, keep)
    assert len(store.resident_entries) == num_kept
    assert len(list(tmp_path.iterdir())) == num_kept


@pytest.mark.parametrize("num_in_ram", [0, NUM_ENTRIES])
def test_entries_on_disk_serve_the_next_run(num_in_ram, tmp_path):
    fill(make_store(folder=tmp_path))
    store = make_store(num_in_ram, tmp_path)
    assert store.num_kept == NUM_ENTRIES
    assert levels_of(store.read(ALL).tensors) == [10, 11, 12, 13]
    assert len(store.resident_entries) == num_in_ram


def test_each_epoch_marks_its_entries_on_disk_as_used(tmp_path):
    store = make_store(folder=tmp_path)
    fill(store)
    for path in tmp_path.iterdir():
        os.utime(path, (1, 1))
    store.refresh([None, *KEYS[1:]])
    assert [path.name for path in tmp_path.iterdir() if path.stat().st_mtime == 1] == [f"{KEYS[0].hex()}.entry"]


def test_a_damaged_file_is_an_error_of_its_row_and_can_be_forgotten(tmp_path):
    fill(make_store(folder=tmp_path))
    (tmp_path / f"{KEYS[2].hex()}.entry").write_bytes(b"short")
    store = make_store(folder=tmp_path)
    found = store.read(ALL)
    assert (found.missing, list(found.errors)) == ([2], [2])
    store.forget(2)
    assert not store.has(2)
    assert len(list(tmp_path.iterdir())) == NUM_ENTRIES - 1
    fill(store)
    assert store.num_kept == NUM_ENTRIES
