"""SIGTERM and Ctrl-C at random moments, over one and two ranks: exit codes, checkpoint, message, and the same end."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.faults.process import OVERRIDES
from tests.faults.runs import assert_same_end, assert_whole, last_step, timed_whole_run
from tests.faults.tally import Tally
from tests.programs import Program

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "train.py"
TWO_RANKS = ("trainer.devices=2", "trainer.strategy=ddp")


def start_script(folder: Path, *overrides: str) -> subprocess.Popen[str]:
    """Starts scripts/train.py in a session of its own, so that its processes can be told from others."""
    command = [sys.executable, str(SCRIPT), *OVERRIDES, *overrides, f"hydra.run.dir={folder}"]
    return subprocess.Popen(
        command, cwd=folder.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def wait_for_checkpoint(process: subprocess.Popen[str], folder: Path) -> None:
    """Waits until the run has written a checkpoint that was not there before, or has ended."""
    before, path = last_step(folder), folder / "checkpoints/last.ckpt"
    changed = path.stat().st_mtime_ns if before >= 0 else 0
    while process.poll() is None and not (path.is_file() and path.stat().st_mtime_ns != changed):
        time.sleep(0.05)


def processes_of(session: int) -> list[psutil.Process]:
    """Returns the processes of a session that are alive."""
    alive = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                alive.append(process)
        except (psutil.NoSuchProcess, ProcessLookupError):
            continue
    return alive


def test_a_stopped_script_ends_with_its_code_and_the_line_that_continues_it(drawn, tmp_path):
    folder = tmp_path / "run"
    overrides = (*OVERRIDES, f"dataset_base_path={drawn}", "trainer.max_epochs=1000", f"hydra.run.dir={folder}")
    program = Program(SCRIPT, *overrides, cwd=tmp_path, merged=True)
    while program.returncode is None and not (folder / "checkpoints/last.ckpt").is_file():
        time.sleep(0.05)
    program.send_signal(signal.SIGTERM)
    done = program.wait(120)
    assert done.returncode == 143, done.stdout
    line = done.stdout.strip().splitlines()[-1]
    assert re.fullmatch(rf"  uv run scripts/train\.py .* resume={folder}/checkpoints/last\.ckpt", line)
    assert_whole(folder)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_runs_of_one_rank_stopped_again_and_again_end_as_one_that_was_not(start, num_rounds, tmp_path):
    tally, random_moment = Tally("signals to one rank"), random.Random(0)
    duration = timed_whole_run(start, tmp_path)
    while num_signals(tally) < num_rounds:
        tally.counts["runs"] += 1
        folder = tmp_path / f"run{tally.counts['runs']}"
        with tally.case(folder.name):
            step = -1
            while True:
                process = start(folder, "resume=auto")
                process.join(None if num_signals(tally) == num_rounds else random_moment.uniform(0.3, 1.0) * duration)
                if not process.is_alive():
                    break
                signum = next_signal(tally)
                os.kill(process.pid, signum)
                process.join(120)
                assert process.exitcode in (128 + signum, 0), folder.with_suffix(".log").read_text()
                if process.exitcode == 0:  # it had just finished
                    break
                assert_whole(folder)
                assert last_step(folder) >= step
                step = last_step(folder)
                log = folder.with_suffix(".log").read_text()
                assert ("To continue:" if step >= 0 else "there is nothing to resume from") in log.splitlines()[
                    -2 + (step < 0)
                ]
            assert process.exitcode == 0, folder.with_suffix(".log").read_text()
            assert_same_end(folder, tmp_path / "whole")
    tally.close()


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_runs_of_two_ranks_end_together_and_continue_as_one_that_was_not_stopped(drawn, num_rounds, tmp_path):
    tally, random_moment = Tally("signals to two ranks"), random.Random(1)
    whole = start_script(tmp_path / "whole", f"dataset_base_path={drawn}", *TWO_RANKS)
    output = whole.communicate()[0]
    assert whole.returncode == 0, output
    while num_signals(tally) < num_rounds:
        tally.counts["runs"] += 1
        folder = tmp_path / f"run{tally.counts['runs']}"
        with tally.case(folder.name):
            returncode = -1
            while returncode != 0:
                process = start_script(folder, f"dataset_base_path={drawn}", "resume=auto", *TWO_RANKS)
                wait_for_checkpoint(process, folder)
                time.sleep(random_moment.uniform(0, 1))
                signum = 0
                if process.poll() is None and num_signals(tally) < num_rounds:
                    # Ctrl-C in a terminal reaches all processes, docker and a scheduler often one.
                    reaches_all = num_signals(tally) % 3 == 2
                    signum = next_signal(tally)
                    if reaches_all:
                        os.killpg(process.pid, signum)
                    else:
                        process.send_signal(signum)
                output = process.communicate(timeout=300)[0]
                returncode = process.returncode
                if (
                    returncode == -signum and "everything is in" in output
                ):  # it had finished, and was unloading its libraries
                    returncode = 0
                assert returncode in (0, 128 + signum), output
                assert not processes_of(process.pid)
                assert_whole(folder)
                assert returncode == 0 or output.strip().splitlines()[-2].endswith("To continue:"), output
            assert_same_end(folder, tmp_path / "whole")
    tally.close()


def num_signals(tally: Tally) -> int:
    """Returns the number of signals sent so far."""
    return tally.counts["SIGTERM"] + tally.counts["SIGINT"]


def next_signal(tally: Tally) -> signal.Signals:
    """Returns SIGTERM and SIGINT in turn, and counts it."""
    signum = (signal.SIGTERM, signal.SIGINT)[num_signals(tally) % 2]
    tally.counts[signum.name] += 1
    return signum
