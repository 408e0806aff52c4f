"""The disk tier: killed writers, full disks, damaged and foreign files, two runs in one folder."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from ocr.cache.files import HEADER, WRITES_BETWEEN_SCANS, EntryError, EntryFiles
from ocr.errors import InputError

PLENTY = 1 << 30


def key_of(number: int) -> bytes:
    return number.to_bytes(32, "big")


def parts_of(number: int, size: int = 5000) -> list[np.ndarray]:
    rng = np.random.default_rng(number)
    return [rng.integers(0, 256, size, np.uint8), rng.integers(0, 256, 77, np.uint8)]


def read(files: EntryFiles, number: int, size: int = 5000) -> list[np.ndarray]:
    parts = [np.zeros(size, np.uint8), np.zeros(77, np.uint8)]
    files.read(key_of(number), parts)
    return parts


def assert_holds(files: EntryFiles, number: int) -> None:
    for found, expected in zip(read(files, number), parts_of(number), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_written_entries_are_read_by_the_next_run_too(tmp_path):
    assert EntryFiles(tmp_path, PLENTY).write(key_of(1), parts_of(1))
    later = EntryFiles(tmp_path, PLENTY)
    assert later.has(key_of(1))
    assert not later.has(key_of(2))
    assert_holds(later, 1)
    assert later.num_bytes == sum(file.stat().st_size for file in tmp_path.iterdir())


def damage_cut_short(path: Path) -> None:
    os.truncate(path, 1000)


def damage_cut_in_the_header(path: Path) -> None:
    os.truncate(path, 20)


def damage_empty(path: Path) -> None:
    os.truncate(path, 0)


def damage_zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def damage_zeros_after_the_header(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: HEADER.size] + bytes(len(data) - HEADER.size))


def damage_one_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data)


def damage_longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")


def damage_foreign(path: Path) -> None:
    path.write_bytes(b"PK\3\4" + b"x" * 6000)


def damage_another_entry(path: Path) -> None:
    other = path.with_name(key_of(9).hex() + path.suffix)
    path.write_bytes(other.read_bytes())


def damage_removed(path: Path) -> None:
    path.unlink()


DAMAGES = [value for name, value in list(globals().items()) if name.startswith("damage_")]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_never_served_and_is_named(tmp_path, damage):
    files = EntryFiles(tmp_path, PLENTY)
    for number in (1, 9):
        files.write(key_of(number), parts_of(number))
    path = tmp_path / f"{key_of(1).hex()}.entry"
    damage(path)
    with pytest.raises(EntryError, match=path.name):
        read(files, 1)
    files.remove(key_of(1))
    assert files.write(key_of(1), parts_of(1))
    assert_holds(files, 1)


def test_a_killed_writer_leaves_no_entry_and_its_temporary_file_is_removed(tmp_path):
    program = f"""
        import numpy as np, ocr.cache.files as files
        def parts():
            first = np.ones(5000, np.uint8)
            return [first, np.ones(1 << 30, np.uint8)]
        cache = files.EntryFiles({str(tmp_path)!r}, 1 << 40)
        print("writing", flush=True)
        cache.write(bytes(32), parts())
        print("written", flush=True)
    """
    writer = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout.readline() == "writing\n"
    while not list(tmp_path.glob("*.writing")):
        time.sleep(0.001)
    writer.send_signal(signal.SIGKILL)
    rest, _ = writer.communicate()
    assert "written" not in rest
    assert len(list(tmp_path.iterdir())) == 1
    files = EntryFiles(tmp_path, PLENTY)
    assert list(tmp_path.iterdir()) == []
    assert not files.has(bytes(32))
    assert files.num_bytes == 0


def test_a_file_that_another_run_is_writing_is_left_alone(tmp_path):
    import fcntl

    under_way = tmp_path / f"{key_of(1).hex()}.1-1.writing"
    with under_way.open("xb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        EntryFiles(tmp_path, PLENTY)
        assert under_way.exists()
    EntryFiles(tmp_path, PLENTY)
    assert not under_way.exists()


def test_the_least_recently_used_entries_make_room_and_those_in_use_stay(tmp_path):
    size = HEADER.size + 5077
    files = EntryFiles(tmp_path, 3 * size)
    for number in (1, 2, 3):
        assert files.write(key_of(number), parts_of(number))
        os.utime(tmp_path / f"{key_of(number).hex()}.entry", (number, number))
    files.mark_used([key_of(1)])
    assert files.write(key_of(4), parts_of(4))
    assert [files.has(key_of(number)) for number in (1, 2, 3, 4)] == [True, False, True, True]
    assert files.num_bytes == 3 * size


def test_own_entries_stay_even_if_the_clock_of_the_file_system_is_behind(tmp_path):
    files = EntryFiles(tmp_path, 3 * (HEADER.size + 5077))
    for number in (1, 2, 3):
        assert files.write(key_of(number), parts_of(number))
    make_old(tmp_path, 1, 2, 3)
    assert not files.write(key_of(4), parts_of(4))
    later = EntryFiles(tmp_path, 3 * (HEADER.size + 5077))
    later.mark_used([key_of(1)])
    make_old(tmp_path, 1, 2, 3)
    assert later.write(key_of(4), parts_of(4))
    assert [later.has(key_of(number)) for number in (1, 2, 3, 4)] == [True, False, True, True]


def make_old(folder: Path, *numbers: int) -> None:
    for number in numbers:
        os.utime(folder / f"{key_of(number).hex()}.entry", (number, number))


class Watched:
    """One part of an entry, which calls a function when it is written."""

    nbytes = 77

    def __init__(self, before_writing) -> None:
        self._calls = iter((lambda: None, before_writing))  # its checksum comes first

    @property
    def data(self) -> memoryview:
        next(self._calls)()
        return memoryview(bytes(self.nbytes))


def test_a_run_that_starts_leaves_the_file_alone_that_another_is_writing(tmp_path):
    files = EntryFiles(tmp_path, PLENTY)
    assert files.write(key_of(1), [Watched(lambda: EntryFiles(tmp_path, PLENTY))])
    assert files.has(key_of(1))


def test_a_temporary_file_that_another_run_has_removed_costs_only_its_entry(tmp_path, caplog):
    files = EntryFiles(tmp_path, PLENTY)
    assert not files.write(key_of(1), [Watched(lambda: next(tmp_path.glob("*.writing")).unlink())])
    assert files.write(key_of(2), parts_of(2))
    assert not caplog.records


def test_a_removed_entry_takes_no_bytes(tmp_path):
    files = EntryFiles(tmp_path, PLENTY)
    assert files.write(key_of(1), parts_of(1))
    files.remove(key_of(1))
    assert (files.num_bytes, list(tmp_path.iterdir())) == (0, [])


def test_a_spent_budget_is_reported_once_and_the_rest_is_not_kept(tmp_path, caplog):
    files = EntryFiles(tmp_path, 2 * (HEADER.size + 5077))
    assert [files.write(key_of(number), parts_of(number)) for number in range(5)] == [True, True, False, False, False]
    assert len(list(tmp_path.iterdir())) == 2
    (record,) = caplog.records
    assert "the budget of" in record.message
    assert str(tmp_path) in record.message


def test_concurrent_runs_keep_the_budget_and_their_entries(tmp_path):
    size = HEADER.size + 5077
    runs = [EntryFiles(tmp_path, 30 * size) for _ in range(2)]
    for number in range(60):
        runs[number % 2].write(key_of(number), parts_of(number))
    assert len(list(tmp_path.iterdir())) <= 30 + 16  # the folder is scanned at every 16th write
    for number in range(15):
        assert_holds(runs[0], number)


def test_entries_of_earlier_runs_count_towards_the_budget_and_do_not_pile_up(tmp_path):
    size = HEADER.size + 5077
    for run in range(6):
        files = EntryFiles(tmp_path, 4 * size)
        for number in range(run * 3, run * 3 + 3):
            assert files.write(key_of(number), parts_of(number))
    assert len(list(tmp_path.iterdir())) == 4


@pytest.fixture
def small_disk(tmp_path):
    mount = tmp_path / "small"
    mount.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", mount], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.decode().strip()}")
    yield mount
    subprocess.run(["umount", "-l", mount], check=True)


def test_a_full_disk_is_reported_once_and_leaves_no_partial_file(small_disk, caplog):
    files = EntryFiles(small_disk, PLENTY)
    written = [files.write(key_of(number), parts_of(number, 20_000)) for number in range(6)]
    assert written == [True, True, True, False, False, False]  # of 5 pages each, on a disk of 16
    assert not list(small_disk.glob("*.writing"))
    (record,) = caplog.records
    assert "No space left on device" in record.message
    later = EntryFiles(small_disk, PLENTY)
    assert [later.has(key_of(number)) for number in range(4)] == [True, True, True, False]


def test_two_writers_of_the_same_entries_end_with_sound_ones(tmp_path):
    caches = [EntryFiles(tmp_path, PLENTY) for _ in range(4)]

    def write_all(files: EntryFiles) -> None:
        for number in range(50):
            files.write(key_of(number), parts_of(number))

    threads = [threading.Thread(target=write_all, args=(files,)) for files in caches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(tmp_path.iterdir())) == 50
    for number in range(50):
        assert_holds(caches[0], number)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cache_config\.directory=.*file/cache: cannot be created"):
        EntryFiles(tmp_path / "file" / "cache", PLENTY)


def test_a_folder_removed_during_the_run_stops_writing_with_one_warning(tmp_path, caplog):
    files = EntryFiles(tmp_path / "cache", PLENTY)
    assert files.write(key_of(0), parts_of(0))
    shutil.rmtree(tmp_path / "cache")
    written = [files.write(key_of(number), parts_of(number)) for number in range(1, 2 * WRITES_BETWEEN_SCANS)]
    assert not any(written)
    assert [record.getMessage() for record in caplog.records] == [
        f"disk cache {tmp_path}/cache: writing stops: No such file or directory; entries that are not on disk are "
        "recomputed each epoch"
    ]


def test_the_folder_is_listed_less_often_the_fuller_it_is(tmp_path):
    listings: list[str] = []
    is_counting = [True]  # an audit hook cannot be removed
    sys.addaudithook(lambda event, _: listings.append(event) if event == "os.scandir" and is_counting[0] else None)
    files = EntryFiles(tmp_path, PLENTY)
    for number in range(1200):
        assert files.write(key_of(number), parts_of(number, size=8))
    assert len(listings) < 40  # one in 16 writes would be 75
    is_counting[0] = False


def test_an_entry_that_another_run_has_used_since_the_listing_is_kept(tmp_path):
    earlier = EntryFiles(tmp_path, PLENTY)
    for number in range(4):
        earlier.write(key_of(number), parts_of(number))
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    for number, path in enumerate(sorted(tmp_path.iterdir())):
        os.utime(path, (1000 + number, 1000 + number))
    oldest, second, third, _ = sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime)
    files = EntryFiles(tmp_path, sum(sizes))
    assert files.write(key_of(10), parts_of(10))
    assert not oldest.exists()
    os.utime(second)
    assert files.write(key_of(11), parts_of(11))
    assert second.exists()
    assert not third.exists()
