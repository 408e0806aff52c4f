import errno
import os
from pathlib import Path

import pytest

from ocr import file_lock
from ocr.file_lock import lock_of_open_file, lock_of_process


@pytest.fixture
def descriptors(tmp_path: Path):
    opened = [os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT) for _ in range(2)]
    yield opened
    for descriptor in opened:
        os.close(descriptor)


def test_an_open_file_is_locked_against_other_openings(descriptors: list[int]) -> None:
    lock_of_open_file(descriptors[0])
    with pytest.raises(BlockingIOError):
        lock_of_open_file(descriptors[1])


def test_a_process_does_not_lock_out_itself(descriptors: list[int]) -> None:
    lock_of_process(descriptors[0])
    lock_of_process(descriptors[1])


@pytest.mark.parametrize("lock", [lock_of_process, lock_of_open_file])
def test_a_system_without_locks_is_told_from_a_lock_that_is_held(
    descriptors: list[int], lock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_lock, "fcntl", None)
    with pytest.raises(OSError, match="this system has no file locks") as caught:
        lock(descriptors[0])
    assert caught.value.errno == errno.ENOTSUP
    assert not isinstance(caught.value, BlockingIOError)
