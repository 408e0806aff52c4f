import os
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from pathlib import Path

import cv2
import numpy as np
import pytest

from ocr.postprocess import pool as pool_module
from ocr.postprocess.boxes import detect_levels
from ocr.postprocess.config import PostprocessConfig
from ocr.postprocess.pool import OrderedPool


def receipt_levels(seed):
    """Returns a map of text lines as levels; each seed gives another map."""
    rng = np.random.default_rng(seed)
    levels = np.zeros((320, 240), np.uint8)
    for top in range(10, 300, 14):
        left, width = rng.integers(5, 40), rng.integers(30, 180)
        levels[top : top + rng.integers(3, 8), left : left + width] = rng.integers(180, 256)
    return cv2.GaussianBlur(levels, (0, 0), 0.8)


def found_text(levels):
    return detect_levels(levels, map_stride=1, shrink_ratio=0.6, config=PostprocessConfig(output="polygon"))


def worker_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("postprocess")]


@pytest.mark.parametrize(("num_workers", "max_pending"), [(0, 1), (1, 1), (2, 3), (4, 64), (-1, 8)])
def test_results_equal_those_of_a_serial_loop(num_workers, max_pending):
    maps = [receipt_levels(seed) for seed in range(24)]
    expected = [found_text(levels) for levels in maps]
    with OrderedPool(num_workers, max_pending) as pool:
        for levels in maps:
            pool.submit(found_text, levels)
        results = pool.finish()
    assert len(results) == len(expected)
    assert sum(len(found.polygons) for found in expected) > 300
    for found, serial in zip(results, expected, strict=True):
        np.testing.assert_array_equal(found.scores, serial.scores)
        for polygon, same in zip(found.polygons, serial.polygons, strict=True):
            np.testing.assert_array_equal(polygon, same)


def test_results_keep_the_order_of_submission_when_later_tasks_end_first():
    ended = []

    def slower_first(number):
        time.sleep(0.05 if number == 0 else 0)
        ended.append(number)
        return number

    with OrderedPool(2, 8) as pool:
        for number in range(5):
            pool.submit(slower_first, number)
        assert pool.finish() == [0, 1, 2, 3, 4]
    assert ended[-1] == 0


def test_tasks_run_beside_the_caller_and_each_other():
    meeting = threading.Barrier(3, timeout=10)
    with OrderedPool(2, 8) as pool:
        pool.submit(meeting.wait)
        pool.submit(meeting.wait)
        meeting.wait()
        assert sorted(pool.finish()) != [0, 0]


@pytest.mark.parametrize("max_pending", [1, 2, 5])
def test_submit_waits_at_the_limit_of_unfinished_tasks(max_pending):
    lock = threading.Lock()
    unfinished, most = 0, 0

    def slow():
        nonlocal unfinished
        time.sleep(0.002)
        with lock:
            unfinished -= 1

    with OrderedPool(2, max_pending) as pool:
        for _ in range(20):
            pool.submit(slow)
            with lock:
                unfinished += 1
                most = max(most, unfinished)
        pool.finish()
    assert unfinished == 0
    assert most == max_pending


def test_waiting_seconds_are_counted():
    with OrderedPool(2, 2) as pool:
        for _ in range(6):
            pool.submit(time.sleep, 0.03)
        waited_in_submit = pool.blocked_seconds
        pool.finish()
        assert waited_in_submit > 0.05
        assert pool.blocked_seconds > waited_in_submit + 0.02
        pool.reset_statistics()
        assert pool.blocked_seconds == 0


def test_submit_does_not_wait_below_the_limit():
    release = threading.Event()
    with OrderedPool(1, 50) as pool:
        for _ in range(50):
            pool.submit(release.wait, 10)
        assert pool.blocked_seconds == 0
        release.set()
        pool.finish()


def test_without_workers_tasks_run_in_submit():
    threads = []
    with OrderedPool(0, 1) as pool:
        for _ in range(3):
            pool.submit(lambda: threads.append(threading.current_thread()))
        assert threads == [threading.main_thread()] * 3
        pool.finish()
        assert worker_threads() == []


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_an_empty_pool_finishes_and_can_be_used_again(num_workers):
    with OrderedPool(num_workers, 4) as pool:
        assert pool.finish() == []
        for epoch in range(3):
            for number in range(6):
                pool.submit(pow, number, epoch)
            assert pool.finish() == [number**epoch for number in range(6)]
        assert pool.finish() == []


def failing_map(number):
    if number in (3, 5):
        detect_levels(np.zeros((2, number)), map_stride=1, shrink_ratio=0.6, config=PostprocessConfig())
    return number


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_exception_of_the_first_task_that_fails_is_raised_with_its_traceback(num_workers):
    def submit_all():
        for number in range(8):
            pool.submit(failing_map, number)
        pool.finish()

    with OrderedPool(num_workers, 64) as pool:
        with pytest.raises(ValueError, match=r"levels are float64 of shape \(2, 3\)") as raised:
            submit_all()
        assert "failing_map" in "".join(traceback.format_tb(raised.value.__traceback__))
        assert pool.finish() == []
        pool.submit(failing_map, 7)
        assert pool.finish() == [7]


def test_the_failure_of_the_first_submitted_task_is_raised():
    def fail(number, delay):
        time.sleep(delay)
        raise ValueError(f"task {number}")

    with OrderedPool(2, 8) as pool:
        pool.submit(fail, 0, 0.05)
        pool.submit(fail, 1, 0)
        with pytest.raises(ValueError, match="task 0"):
            pool.finish()


def test_a_failure_drops_waiting_tasks():
    release, started = threading.Event(), []

    def fail():
        release.wait(10)
        raise OSError("disk")

    with OrderedPool(1, 64) as pool:
        pool.submit(fail)
        for _ in range(10):
            pool.submit(time.sleep, 0.02)
        pool.submit(started.append, True)
        release.set()
        with pytest.raises(OSError, match="disk"):
            pool.finish()
        assert pool.finish() == []
    assert started == []


def test_a_blocked_submit_raises_a_failure():
    def fail_later():
        time.sleep(0.02)
        raise OSError("disk")

    with OrderedPool(1, 2) as pool:
        pool.submit(fail_later)
        pool.submit(time.sleep, 0)
        with pytest.raises(OSError, match="disk"):
            pool.submit(time.sleep, 0)


def test_an_interrupt_drops_waiting_tasks_and_ends_the_threads():
    started = []

    def slow(number):
        started.append(number)
        time.sleep(0.02)

    def interrupted_epoch():
        with pool:
            for number in range(60):
                pool.submit(slow, number)
            raise KeyboardInterrupt

    pool = OrderedPool(2, 64)
    with pytest.raises(KeyboardInterrupt):
        interrupted_epoch()
    assert len(started) < 10
    assert worker_threads() == []
    pool.close()
    for use in (lambda: pool.submit(slow, 0), pool.finish):
        with pytest.raises(RuntimeError, match="the pool is closed"):
            use()


@pytest.mark.parametrize(
    "ending", ["", "raise KeyboardInterrupt", "os.kill(os.getpid(), signal.SIGINT); pool.finish()"]
)
def test_interpreter_exits_with_an_open_pool(ending):
    script = f"""
        import os, signal, time
        from pool import OrderedPool  # by itself, without torch
        pool = OrderedPool(2, 8)
        for _ in range(8):
            pool.submit(time.sleep, 0.05)
        {ending}
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=Path(pool_module.__file__).parent,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ("KeyboardInterrupt" in ended.stderr) == bool(ending)
    assert (ended.returncode == 0) == (not ending)


@pytest.mark.parametrize(("num_workers", "max_pending"), [(-2, 1), (1, 0)])
def test_sizes_that_are_too_small_are_refused(num_workers, max_pending):
    with pytest.raises(ValueError, match=f"num_workers={num_workers}, max_pending={max_pending}"):
        OrderedPool(num_workers, max_pending)


def test_auto_leaves_one_core_for_the_forward_pass():
    with OrderedPool(-1, 1) as pool:
        assert pool.num_workers == min(8, max(1, len(os.sched_getaffinity(0)) - 1))
