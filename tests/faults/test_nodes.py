"""Runs of several ranks, on one node and on two: their files, their results, and what ends them. Nodes are network namespaces."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import lightning
import psutil
import pytest
import torch

from ocr.command_line import compose_config
from ocr.config import TrainConfig
from ocr.training.fit import train
from tests.faults.process import OVERRIDES
from tests.faults.runs import assert_same_end

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "train.py"
ADDRESSES = ("10.77.0.1", "10.77.0.2")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=1", "--nnodes=2")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Node:
    """A network namespace, kept open by a process that sleeps in it."""

    def __init__(self) -> None:
        self.holder = subprocess.Popen(["unshare", "--net", "sleep", "3600"])

    def command(self, *words: str) -> list[str]:
        return ["nsenter", f"--target={self.holder.pid}", "--net", *words]

    def run(self, *words: str) -> None:
        subprocess.run(self.command(*words), check=True, capture_output=True)

    def close(self) -> None:
        self.holder.kill()
        self.holder.wait()


@pytest.fixture
def nodes() -> Iterator[tuple[Node, Node]]:
    """Two network namespaces with a cable between them."""
    try:
        subprocess.run(["unshare", "--net", "ip", "link"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"network namespaces are not allowed here: {error}")
    pair = Node(), Node()
    own = Path("/proc/self/ns/net").readlink()
    while any(Path(f"/proc/{node.holder.pid}/ns/net").readlink() == own for node in pair):
        time.sleep(0.05)
    first, second = (str(node.holder.pid) for node in pair)
    subprocess.run(
        ["ip", "link", "add", "cable0", "netns", first, "type", "veth", "peer", "name", "cable1", "netns", second],
        check=True,
    )
    for number, node in enumerate(pair):
        node.run("ip", "addr", "add", f"{ADDRESSES[number]}/24", "dev", f"cable{number}")
        node.run("ip", "link", "set", f"cable{number}", "up")
        node.run("ip", "link", "set", "lo", "up")
    try:
        yield pair
    finally:
        for node in pair:
            node.close()


def start(command: list[str], log: Path, cwd: Path) -> subprocess.Popen[bytes]:
    """Starts a command in a session of its own, with its output in a file."""
    with log.open("wb") as output:
        return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=cwd, start_new_session=True)


def start_on_nodes(pair: tuple[Node, Node], folder: Path, *overrides: str) -> list[subprocess.Popen[bytes]]:
    """Starts one rank on each node with torchrun, in a folder of their own without hydra.run.dir."""
    folder.mkdir()
    meeting = (f"--master-addr={ADDRESSES[0]}", "--master-port=29500")
    where = ("exp_name=nodes", *OVERRIDES, *overrides)
    return [
        start(
            node.command(*TORCHRUN, *meeting, f"--node-rank={number}", str(SCRIPT), *where),
            folder / f"node{number}.log",
            folder,
        )
        for number, node in enumerate(pair)
    ]


def run_folder(folder: Path) -> Path:
    """Returns the one run folder that the ranks of `start_on_nodes` have written."""
    (found,) = (folder / "outputs/nodes").iterdir()
    return found


def logs(folder: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(folder.glob("node*.log")))


def files_of(folder: Path) -> list[str]:
    """Returns the files of a run, without the number in the name of TensorBoard's."""
    return sorted(path.relative_to(folder).as_posix().partition(".tfevents")[0] for path in folder.rglob("*"))


def seconds_until_end(processes: list[subprocess.Popen[bytes]], since: float) -> float:
    for process in processes:
        process.wait(timeout=120)
    return time.monotonic() - since


def wait_for_steps(processes: list[subprocess.Popen[bytes]], folder: Path) -> None:
    while not list(folder.glob("outputs/nodes/*/checkpoints/last.ckpt")):
        assert all(process.poll() is None for process in processes), logs(folder)
        time.sleep(0.1)


def test_two_nodes_train_as_two_processes_of_one_machine(nodes, drawn, tmp_path):
    given = (f"dataset_base_path={drawn}", "trainer.max_epochs=2")
    processes = start_on_nodes(nodes, tmp_path / "nodes", *given)
    assert [process.wait() for process in processes] == [0, 0], logs(tmp_path / "nodes")
    alone = tmp_path / "alone"
    command = [sys.executable, str(SCRIPT), *OVERRIDES, *given, "trainer.devices=2", f"hydra.run.dir={alone}"]
    assert start(command, tmp_path / "alone.log", tmp_path).wait() == 0, (tmp_path / "alone.log").read_text()
    folder = run_folder(tmp_path / "nodes")
    assert_same_end(folder, alone)
    assert files_of(folder) == files_of(alone)
    assert {path.name for path in (tmp_path / "nodes").iterdir()} == {"outputs", "node0.log", "node1.log"}
    summaries = [json.loads((path / "summary.json").read_text())["epochs"] for path in (folder, alone)]
    for name in ("train_loss", "val_loss", "hmean"):
        assert [epoch.get(name) for epoch in summaries[0]] == [epoch.get(name) for epoch in summaries[1]]
    assert "for each of 2 processes" in (tmp_path / "alone.log").read_text()
    assert "for each of 2 processes" not in logs(tmp_path / "nodes")  # each node has its RAM for itself


class StopInValidation(lightning.Callback):
    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        os.kill(os.getpid(), signal.SIGTERM)


def test_two_nodes_validate_as_one_process(nodes, drawn, tmp_path):
    given = (
        f"dataset_base_path={drawn}",
        "trainer.max_epochs=1",
        "postprocess.bin_thresh=0.53",  # an untrained map has many regions there
        "postprocess.box_thresh=0.3",
        "metric=cleval",
    )
    config = compose_config(TrainConfig, "train", [*OVERRIDES, *given])
    with pytest.raises(SystemExit):
        train(config, tmp_path / "trained", [StopInValidation()])
    resume = f"resume={tmp_path / 'trained/checkpoints/last.ckpt'}"
    alone = train(compose_config(TrainConfig, "train", [*OVERRIDES, *given, resume]), tmp_path / "alone")
    processes = start_on_nodes(nodes, tmp_path / "nodes", *given, resume)
    assert [process.wait() for process in processes] == [0, 0], logs(tmp_path / "nodes")
    folder = run_folder(tmp_path / "nodes")
    predictions = [(path / "predictions.json").read_bytes() for path in (tmp_path / "alone", folder)]
    assert predictions[0] == predictions[1]
    assert sum(len(image["words"]) for image in json.loads(predictions[0])["images"].values()) > 100
    assert alone["hmean"] > 0
    together = json.loads((folder / "summary.json").read_text())
    for name in ("hmean", "precision", "recall"):
        assert together[name] == alone[name]


def test_a_node_whose_network_fails_ends_both_within_a_minute(nodes, drawn, tmp_path):
    folder = tmp_path / "nodes"
    steps = (f"dataset_base_path={drawn}", "trainer.max_epochs=1000", "trainer.save_every_n_steps=1")
    processes = start_on_nodes(nodes, folder, *steps)
    wait_for_steps(processes, folder)
    nodes[1].run("ip", "link", "set", "cable1", "down")
    seconds = seconds_until_end(processes, time.monotonic())
    print(f"network of a node cut: both ended after {seconds:.1f} s")
    assert all(process.returncode not in (0, None) for process in processes)
    assert seconds < 60
    assert logs(folder).count("rank 1 (process ") == 1
    assert logs(folder).count("rank 0 (process ") == 1  # the other node knows that of rank 0 only
    torch.load(run_folder(folder) / "checkpoints/last.ckpt", weights_only=True)


def test_a_killed_node_ends_the_other_within_a_minute(nodes, drawn, tmp_path):
    folder = tmp_path / "nodes"
    steps = (f"dataset_base_path={drawn}", "trainer.max_epochs=1000", "trainer.save_every_n_steps=1")
    processes = start_on_nodes(nodes, folder, *steps)
    wait_for_steps(processes, folder)
    killed = psutil.Process(processes[1].pid)
    for process in [*killed.children(recursive=True), killed]:
        process.kill()
    seconds = seconds_until_end(processes, time.monotonic())
    print(f"node killed: the other ended after {seconds:.1f} s")
    assert processes[0].returncode != 0
    assert seconds < 60
    assert logs(folder).count("rank 1 (process ") == 1


def start_two_ranks(folder: Path, *overrides: str) -> subprocess.Popen[bytes]:
    """Starts two ranks on this machine without torchrun: the first one starts the second."""
    command = [
        sys.executable,
        str(SCRIPT),
        *OVERRIDES,
        *overrides,
        "trainer.devices=2",
        f"hydra.run.dir={folder / 'run'}",
    ]
    return start(command, folder / "node0.log", folder)


def test_a_loss_that_is_not_finite_ends_two_ranks_with_one_message(drawn, tmp_path):
    process = start_two_ranks(tmp_path, f"dataset_base_path={drawn}", "optimizer.lr=1e8")
    second = None
    while process.poll() is None:
        second = next(iter(psutil.Process(process.pid).children()), second)
        time.sleep(0.05)
    assert process.returncode == 1
    assert logs(tmp_path).count("DivergedError: ") == 1
    assert "Traceback" not in logs(tmp_path)
    assert second is not None
    second.wait(10)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_ends_the_other_and_is_named(drawn, tmp_path, rank):
    process = start_two_ranks(tmp_path, f"dataset_base_path={drawn}", "trainer.max_epochs=1000")
    while not (tmp_path / "run/checkpoints/last.ckpt").is_file():
        assert process.poll() is None, logs(tmp_path)
        time.sleep(0.1)
    ranks = [psutil.Process(process.pid), *psutil.Process(process.pid).children()]
    ranks[rank].kill()
    since = time.monotonic()
    process.wait(60)
    ranks[1].wait(60)
    print(f"rank {rank} killed: both ended after {time.monotonic() - since:.1f} s")
    assert process.returncode == (1 if rank else -signal.SIGKILL)
    assert logs(tmp_path).count(f"rank {rank} (process ") == 1
    assert "Traceback" not in logs(tmp_path)
