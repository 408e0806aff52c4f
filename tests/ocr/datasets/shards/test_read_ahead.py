"""Images are read before they are needed, each once."""

import os
import signal
import threading
from collections.abc import Callable, Sequence

import pytest

from ocr.datasets.plan import letterbox
from ocr.datasets.shards.read_ahead import ReadAhead, ReadAheadPlan
from ocr.loaders.fresh import ChosenBatches


class Reader:
    """Reads each image by itself."""

    def __init__(self, read: Callable[[int], bytes], num_threads: int) -> None:
        self.read, self.num_threads = read, num_threads

    def ranges(self, indices: Sequence[int]) -> list[list[int]]:
        return [[index] for index in indices]

    def read_range(self, indices: Sequence[int]) -> dict[int, bytes]:
        return {index: self.read(index) for index in indices}


class PairReader(Reader):
    """Reads images 2n and 2n + 1 together."""

    def ranges(self, indices: Sequence[int]) -> list[list[int]]:
        pairs = dict.fromkeys(index // 2 for index in indices)
        return [[index for index in indices if index // 2 == pair] for pair in pairs]


def test_each_image_is_read_ahead_once_within_a_bound():
    asked: list[list[int]] = []

    class Plan:
        epoch, following = 0, None

        def __len__(self):
            return 5

        def batch(self, step):
            return letterbox([step], [(10, 10)], 160)

    plan = ReadAheadPlan(Plan(), asked.append, num_ahead=2)
    assert [plan.batch(0)[0].index, asked] == [0, [[0, 1, 2]]]
    assert [plan.batch(step)[0].index for step in range(1, 5)] == [1, 2, 3, 4]
    assert asked == [[0, 1, 2], [3], [4]]
    assert plan.following is None


def test_the_plan_after_one_that_reads_ahead_does_so_too():
    asked: list[list[int]] = []
    batches = [letterbox([index], [(10, 10)], 160) for index in range(4)]
    later = ChosenBatches(1, batches[2:])
    plan = ReadAheadPlan(ChosenBatches(0, batches[:2], later), asked.append, num_ahead=2)
    following = plan.following
    assert following is not None
    assert following == ReadAheadPlan(later, asked.append, num_ahead=2)
    assert following != plan
    assert (following.batch(0)[0].index, asked) == (2, [[2, 3]])


def test_content_not_fetched_is_read_and_get_raises_the_error_of_a_read():
    def read(index: int) -> bytes:
        if index == 2:
            raise OSError("gone")
        return bytes([index])

    ahead = ReadAhead(Reader(read, num_threads=2))
    ahead.fetch([0, 1, 2, 1])
    assert [ahead.get(1), ahead.get(1), ahead.get(0), ahead.get(7)] == [b"\1", b"\1", b"\0", b"\7"]
    with pytest.raises(OSError, match="gone"):
        ahead.get(2)
    ahead.stop()
    ahead.fetch([0])
    assert ahead.get(0) == b"\0"
    ahead.stop()


def test_neighbours_are_read_together_and_each_is_given_once():
    together: list[list[int]] = []

    class Noted(PairReader):
        def read_range(self, indices):
            together.append(list(indices))
            return super().read_range(indices)

    ahead = ReadAhead(Noted(lambda index: bytes([index]), num_threads=1))
    ahead.fetch([4, 0, 5, 4])
    ahead.fetch([5, 6])
    assert [ahead.get(index) for index in (4, 5, 0, 6)] == [b"\4", b"\5", b"\0", b"\6"]
    assert together == [[4, 5], [0], [6]]
    assert ahead.get(5) == b"\5"
    assert together[3:] == [[5]], "read once more"
    ahead.stop()


def test_batches_are_announced_together_from_aligned_places_on():
    asked: list[list[int]] = []
    batches = [letterbox([index], [(10, 10)], 160) for index in range(9)]
    plan = ReadAheadPlan(ChosenBatches(0, batches), asked.append, num_ahead=4, num_together=2)
    plan.batch(1)
    assert asked == [[1, 2, 3, 4, 5]]
    for step in range(2, 9):
        plan.batch(step)
        assert sum(map(len, asked)) <= step + 5, "no more than four batches ahead"
    assert asked == [[1, 2, 3, 4, 5], [6, 7], [8]]


def test_stopping_neither_waits_for_reads_nor_starts_any():
    may_go_on, begun = threading.Event(), []

    def read(index: int) -> bytes:
        begun.append(index)
        may_go_on.wait(timeout=20)
        return b""

    ahead = ReadAhead(Reader(read, num_threads=1))
    ahead.fetch([0, 1, 2])
    ahead.stop()
    assert begun in ([], [0]), "the read under way is not waited for"
    may_go_on.set()
    ahead.fetch([3])  # new threads
    assert ahead.get(3) == b""
    assert begun in ([0, 3], [3])
    ahead.stop()


def test_a_forked_process_reads_anew_and_stops_without_the_threads_it_lacks():
    may_go_on = threading.Event()
    parent = os.getpid()

    def read(index: int) -> bytes:
        if os.getpid() == parent:
            may_go_on.wait(20)
        return bytes([index])

    ahead = ReadAhead(Reader(read, num_threads=1))
    ahead.fetch([1, 2])
    child = os.fork()
    if child == 0:
        signal.alarm(10)  # ends the child if it waits for a thread of its parent
        content = ahead.get(1), ahead.get(2)
        ahead.forget()
        ahead.stop()
        os._exit(7 if content == (b"\1", b"\2") else 1)
    _, status = os.waitpid(child, 0)
    may_go_on.set()
    assert os.waitstatus_to_exitcode(status) == 7
    assert ahead.get(2) == b"\2"
    ahead.stop()
