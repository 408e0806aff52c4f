"""Images are read before they are needed, each once."""

import os
import signal
import threading

import pytest

from ocr.datasets.plan import letterbox
from ocr.datasets.shards.read_ahead import ReadAhead, ReadAheadPlan
from ocr.loaders.maker import ChosenBatches


def test_each_image_is_read_ahead_once_within_a_bound():
    asked: list[list[int]] = []

    class Plan:
        epoch, following = 0, None

        def __len__(self):
            return 5

        def batch(self, step):
            return letterbox([step], [(10, 10)], 160)

    plan = ReadAheadPlan(Plan(), asked.append, num_ahead=2)
    assert [plan.batch(0)[0].index, asked] == [0, [[0], [1], [2]]]
    assert [plan.batch(step)[0].index for step in range(1, 5)] == [1, 2, 3, 4]
    assert asked == [[0], [1], [2], [3], [4]]
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
    assert (following.batch(0)[0].index, asked) == (2, [[2], [3]])


def test_content_not_fetched_is_read_and_get_raises_the_error_of_a_read():
    def read(index: int) -> bytes:
        if index == 2:
            raise OSError("gone")
        return bytes([index])

    ahead = ReadAhead(read, num_threads=2)
    ahead.fetch([0, 1, 2, 1])
    assert [ahead.get(1), ahead.get(1), ahead.get(0), ahead.get(7)] == [b"\1", b"\1", b"\0", b"\7"]
    with pytest.raises(OSError, match="gone"):
        ahead.get(2)
    ahead.stop()
    ahead.fetch([0])
    assert ahead.get(0) == b"\0"
    ahead.stop()


def test_stopping_neither_waits_for_reads_nor_starts_any():
    may_go_on, begun = threading.Event(), []

    def read(index: int) -> bytes:
        begun.append(index)
        may_go_on.wait(timeout=20)
        return b""

    ahead = ReadAhead(read, num_threads=1)
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

    ahead = ReadAhead(read, num_threads=1)
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
