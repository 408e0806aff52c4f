"""cache_config.verify names entries that were altered in memory or on disk, and stops the run."""

import zlib
from pathlib import Path

import pytest

from ocr.cache.files import HEADER, MAGIC
from ocr.errors import CacheError
from ocr.loaders.verify import choose_entries
from tests.ocr.loaders.batches import NUM_IMAGES, assert_same, cached_loader, counts, resident, run_epoch


def test_each_epoch_chooses_other_random_entries():
    chosen = [choose_entries(range(5, 105), 3, seed=0, epoch=epoch) for epoch in range(20)]
    assert all(len(set(entries)) == 3 and entries == sorted(entries) for entries in chosen)
    assert len(set(map(tuple, chosen))) > 15
    assert chosen[7] == choose_entries(range(5, 105), 3, seed=0, epoch=7)


def test_a_count_above_the_number_of_entries_chooses_all():
    assert choose_entries([4, 2, 9], 10, seed=0, epoch=0) == [2, 4, 9]
    assert choose_entries([], 10, seed=0, epoch=0) == []


def test_an_image_altered_in_memory_is_named(drawn):
    cached = cached_loader(drawn, verify=NUM_IMAGES)
    run_epoch(cached)
    run_epoch(cached, 1)  # nothing is wrong yet
    resident(cached, "images")[7, 1, 5, 5] += 0.25
    message = r"train_00007\.jpg: 1 of 49152 values of its cached images differ .* by up to 0\.25"
    with pytest.raises(CacheError, match=message):
        run_epoch(cached, 2)


def test_a_target_map_altered_in_memory_is_named(drawn):
    cached = cached_loader(drawn, verify=NUM_IMAGES)
    run_epoch(cached)
    resident(cached, "thresh_map")[3, 9, 9] = float("nan")
    with pytest.raises(CacheError, match=r"train_00003\.jpg: 1 of 4096 values of its cached thresh_map differ"):
        run_epoch(cached, 1)


def alter(path: Path) -> None:
    """Changes one value of an entry and makes its checksum fit again."""
    data = bytearray(path.read_bytes())
    data[HEADER.size + 5000] ^= 0x10
    _, key, size, _ = HEADER.unpack(data[: HEADER.size])
    path.write_bytes(HEADER.pack(MAGIC, key, size, zlib.crc32(data[HEADER.size :])) + data[HEADER.size :])


def test_an_entry_altered_on_disk_is_named_with_the_folder_to_delete(drawn, tmp_path):
    run_epoch(cached_loader(drawn, directory=str(tmp_path)))
    for path in tmp_path.iterdir():
        alter(path)
    with pytest.raises(CacheError, match=rf"train_0000\d\.jpg: 1 of 49152 values .* Delete the folder {tmp_path}"):
        run_epoch(cached_loader(drawn, directory=str(tmp_path), verify=8))


def test_an_entry_whose_checksum_is_wrong_is_named(drawn, tmp_path):
    run_epoch(cached_loader(drawn, directory=str(tmp_path)))
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(CacheError, match=r"train_0000\d\.jpg: .*checksum"):
        run_epoch(cached_loader(drawn, directory=str(tmp_path), verify=1))


def test_verification_changes_neither_batches_nor_counts(drawn):
    expected = run_epoch(cached_loader(drawn))
    cached = cached_loader(drawn, verify=3)
    for epoch in range(3):
        assert_same(run_epoch(cached, epoch), expected)
    assert counts(cached) == (NUM_IMAGES, 0)
