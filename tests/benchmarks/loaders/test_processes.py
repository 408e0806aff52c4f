"""CPU time and memory of a process and its children."""

import subprocess
import sys
import time
from pathlib import Path

import psutil

from benchmarks.loaders.processes import drop_from_page_cache, kill_tree, peak_memory, usage

BUSY = "import time\nwhile time.process_time() < {}: pass\nprint('done', flush=True)\ninput()"


def test_cpu_time_of_a_child_is_counted_while_it_runs_and_after():
    before = usage()
    with subprocess.Popen(
        [sys.executable, "-c", BUSY.format(0.5)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "done\n"
        running = usage().since(before).cpu_seconds
        child.communicate("\n")
    ended = usage().since(before).cpu_seconds
    assert 0.45 <= running <= ended


def test_cpu_time_of_this_process_is_counted():
    before = usage()
    until = time.process_time() + 0.2
    while time.process_time() < until:
        pass
    assert usage().since(before).cpu_seconds >= 0.19


def test_memory_of_a_child_is_counted():
    before = peak_memory()
    code = "block = bytearray(b'1') * 200_000_000\nprint('done', flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert peak_memory() - before > 190_000_000
        child.communicate("\n")


def test_dropped_files_are_whole_when_read_again(tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(b"content" * 1000)
    drop_from_page_cache([str(path)])
    assert path.read_bytes() == b"content" * 1000


def test_process_is_killed_with_its_children():
    code = "import subprocess, sys\nprint(subprocess.Popen([sys.executable, '-c', 'input()']).pid, flush=True)\ninput()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        grandchild = psutil.Process(int(child.stdout.readline()))
        kill_tree(child.pid)
        assert child.wait(10) == -9
    _, alive = psutil.wait_procs([grandchild], timeout=10)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
