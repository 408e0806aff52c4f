"""Items are made in a thread before they are needed; the thread always ends."""

import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

import dali_pipelines.ahead
from dali_pipelines.ahead import Ahead


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "ahead"]


def wait_until(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    gc.collect()
    wait_until(lambda: not threads())


def counted(number: int, made: list[int]) -> Iterator[int]:
    for item in range(number):
        made.append(item)
        yield item


def test_all_items_come_in_order_once():
    ahead = Ahead(iter(range(100)), depth=3)
    assert list(ahead) == list(range(100))
    assert list(ahead) == []
    assert list(Ahead(iter(()), depth=1)) == []


def test_no_more_items_are_made_than_wanted():
    made: list[int] = []
    ahead = Ahead(counted(100, made), depth=3)
    assert made == []
    for taken in range(1, 5):
        next(ahead)
        wait_until(lambda: len(made) == taken + 3)  # noqa: B023  # called at once
    time.sleep(0.02)
    assert len(made) == 7
    ahead.close()
    assert len(made) == 7


def test_the_first_item_is_made_by_the_caller():
    makers = list(Ahead((threading.current_thread() for _ in range(3)), depth=1))
    assert makers[0] is threading.current_thread()
    assert makers[1].name == makers[2].name == "ahead"


@pytest.mark.parametrize("place", [0, 1, 5])
def test_an_error_is_raised_in_its_turn(place):
    def items() -> Iterator[int]:
        yield from range(place)
        raise OSError("gone")

    ahead, taken = Ahead(items(), depth=10), []
    with pytest.raises(OSError, match="gone"):
        taken.extend(iter(lambda: next(ahead), None))
    assert list(ahead) == []


def test_a_closed_iteration_ends_although_items_were_ready():
    ahead = Ahead(iter(range(10)), depth=4)
    next(ahead)
    ahead.close()
    assert list(ahead) == []
    assert threads() == []


def test_closing_wakes_a_consumer_that_waits():
    may_go_on, taken = threading.Event(), []

    def items() -> Iterator[int]:
        yield 0
        may_go_on.wait(20)
        yield 1

    ahead = Ahead(items(), depth=1)
    next(ahead)
    consumer = threading.Thread(target=lambda: taken.extend(ahead))
    consumer.start()
    wait_until(lambda: threads())
    closer = threading.Thread(target=ahead.close)
    closer.start()
    consumer.join(20)
    assert not consumer.is_alive()
    may_go_on.set()
    closer.join(20)
    assert taken == []


def test_an_abandoned_iteration_ends_its_thread():
    ahead = Ahead(iter(range(100)), depth=2)
    next(ahead)
    assert len(threads()) == 1
    del ahead  # the fixture waits for the thread


def test_the_interpreter_exits_in_the_middle_of_an_iteration():
    program = """
import dali_pipelines.ahead
from dali_pipelines.ahead import Ahead
import itertools
ahead = Ahead(itertools.count(), depth=2)
next(ahead), next(ahead)
print("done")
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert (ended.stdout, ended.stderr) == ("done\n", "")


def test_a_process_forked_meanwhile_drops_the_iteration_and_exits():
    started, may_go_on = threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        yield 0
        started.set()
        may_go_on.wait(20)
        yield 1

    ahead = Ahead(items(), depth=1)
    next(ahead)
    started.wait(20)
    child = os.fork()
    if child == 0:
        del ahead
        gc.collect()
        os._exit(7)
    may_go_on.set()
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7
    ahead.close()


def test_closing_says_that_it_no_longer_waits_for_a_slow_item(monkeypatch, caplog):
    monkeypatch.setattr(dali_pipelines.ahead, "PATIENCE", 0.05)
    may_go_on = threading.Event()

    def items() -> Iterator[int]:
        yield 0
        may_go_on.wait(20)

    ahead = Ahead(items(), depth=1)
    next(ahead)
    ahead.close()
    (warning,) = caplog.messages
    assert "still works on one after 0.05 s" in warning
    may_go_on.set()
    wait_until(lambda: not threads())
    ahead.close()
    assert len(caplog.messages) == 1
