"""Real processes that meet, fail and die; their store is a folder."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

RANK = Path(__file__).with_name("watched_rank.py")


def start(folder: Path, rank: int, deed: str, *limits: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, str(RANK), str(folder), str(rank), deed, *limits])


def play(folder: Path, *deeds: str) -> list[int]:
    """Returns the exit codes of three ranks with these deeds."""
    ranks = [start(folder, rank, deed) for rank, deed in enumerate(deeds)]
    return [process.wait(50) for process in ranks]


def lines(folder: Path, rank: int) -> str:
    return (folder / f"log{rank}").read_text()


def test_the_death_of_a_rank_ends_the_others_and_one_line_names_it(tmp_path):
    assert play(tmp_path, "wait", "wait", "die") == [1, 1, -signal.SIGKILL]
    assert lines(tmp_path, 0).count("rank 2 (process ") == 1
    assert lines(tmp_path, 1) == ""


def test_the_death_of_rank_0_ends_the_others_and_each_node_says_so(tmp_path):
    assert play(tmp_path, "die", "wait", "wait") == [-signal.SIGKILL, 1, 1]
    assert all(lines(tmp_path, rank).count("rank 0 (process ") == 1 for rank in (1, 2))


@pytest.mark.parametrize("deeds", [("wait", "fail", "wait"), ("fail", "wait", "wait"), ("fail", "fail", "fail")])
def test_one_failed_rank_may_speak_and_all_end_with_its_code(deeds, tmp_path):
    assert play(tmp_path, *deeds) == [7, 7, 7]
    assert len(list(tmp_path.glob("spoke*"))) == 1
    assert not any(lines(tmp_path, rank) for rank in range(3))


@pytest.mark.parametrize("stopped", [0, 2])
def test_a_stopped_rank_ends_the_others_and_one_line_of_each_node_names_it(stopped, tmp_path):
    processes = [start(tmp_path, rank, "stop" if rank == stopped else "wait", "60", "1.5") for rank in range(3)]
    others = [process for rank, process in enumerate(processes) if rank != stopped]
    assert [process.wait(50) for process in others] == [1, 1]
    processes[stopped].send_signal(signal.SIGCONT)
    assert processes[stopped].wait(50) == 1
    for rank in (1, 2) if stopped == 0 else (0,):
        assert lines(tmp_path, rank).count(f"rank {stopped} (process ") == 1
        assert "does not answer: its process is stopped" in lines(tmp_path, rank)
        assert "0.025 minutes (trainer.stuck_rank_minutes)" in lines(tmp_path, rank)


def test_a_rank_that_stays_behind_is_named_with_its_last_batch(tmp_path):
    processes = [start(tmp_path, rank, deed, "60", "1.5") for rank, deed in enumerate(("go on", "begin two", "go on"))]
    assert [process.wait(50) for process in processes] == [1, 1, 1]
    assert "answers but does not go on" in lines(tmp_path, 0)
    assert "rank 1 (process " in lines(tmp_path, 0)
    assert "It began nothing after batch 2" in lines(tmp_path, 0)
    assert lines(tmp_path, 1) == lines(tmp_path, 2) == ""


def test_ranks_that_wait_together_or_go_on_slowly_are_not_stuck(tmp_path):
    processes = [start(tmp_path, rank, deed, "60", "2") for rank, deed in enumerate(("go on", "go on", "go on"))]
    time.sleep(8)  # none begins a batch in the last seconds of these
    assert [process.poll() for process in processes] == [None, None, None]
    for process in processes:
        process.kill()
        process.wait()


def test_ranks_that_finish_end_well(tmp_path):
    assert play(tmp_path, "finish", "finish", "finish") == [0, 0, 0]
    assert not any(lines(tmp_path, rank) for rank in range(3))


def test_a_missing_rank_is_named(tmp_path):
    process = subprocess.run(
        [sys.executable, str(RANK), str(tmp_path), "0", "finish", "0"], capture_output=True, text=True, timeout=50
    )
    assert "InputError: ranks 1, 2 of 3 have not come within 0 seconds; " in process.stderr


def test_a_stranger_that_connects_is_no_rank(tmp_path):
    process = start(tmp_path, 0, "finish")
    while not (tmp_path / "rank-watch").is_file():
        time.sleep(0.01)
    port = int((tmp_path / "rank-watch").read_text()[1:].partition(",")[0])
    for greeting in (b'{"token": "guessed", "member": {"rank": 1}}\n', b"GET / HTTP/1.1\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", port)) as stranger:
            stranger.sendall(greeting)
            assert stranger.recv(1) == b""
    assert process.poll() is None
    process.kill()
    process.wait()
