"""Two ranks of one run, started as srun starts them: with SLURM's variables, but without SLURM."""

import os
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ocr.config import TrainerConfig
from ocr.placement import Placement
from ocr.training import ranks as ranks_module
from ocr.training.ranks import Ranks, first_of_node_first, num_ranks_of_node
from tests.faults.process import OVERRIDES
from tests.programs import Program

GIVEN = (*OVERRIDES, "trainer.max_epochs=1")
SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "train.py"


@pytest.fixture
def slurm() -> dict[str, str]:
    """The variables of a SLURM step of two tasks on two nodes, both of which are this machine."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    own = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_NODELIST": "127.0.0.[1-2]", "MASTER_PORT": str(port)}
    return {name: value for name, value in os.environ.items() if not name.startswith("SLURM")} | own


def run_tasks(slurm: dict[str, str], folder: Path, *overrides: str) -> tuple[list[int], list[str]]:
    """Runs two tasks in a folder, and returns their exit codes and outputs."""
    tasks = [
        Program(
            SCRIPT,
            *GIVEN,
            *overrides,
            cwd=folder,
            environment=slurm | {"SLURM_PROCID": str(rank), "SLURM_NODEID": str(rank), "SLURM_LOCALID": "0"},
            merged=True,
        )
        for rank in range(2)
    ]
    done = [task.wait() for task in tasks]
    return [task.returncode for task in done], [task.stdout for task in done]


def test_tasks_of_srun_are_one_run_that_only_the_first_one_writes(slurm, drawn, tmp_path):
    codes, outputs = run_tasks(slurm, tmp_path, f"dataset_base_path={drawn}", "exp_name=slurm", "trainer.devices=1")
    assert codes == [0, 0], outputs
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]
    (folder,) = (tmp_path / "outputs/slurm").iterdir()
    assert {"config.yaml", "train.log", "metrics.csv", "summary.json", ".hydra"} <= {
        path.name for path in folder.iterdir()
    }
    assert not list(folder.glob("*.log.*")) + list(folder.glob("*rank*"))
    # Each node warns of its own RAM.
    assert [line for line in outputs[1].splitlines() if "GB of RAM is free" not in line] == []
    assert "for each of 2 processes" not in outputs[0]  # each node has its RAM for itself


def test_a_rank_that_fails_ends_the_others_and_its_error_is_shown_once(slurm, drawn, tmp_path):
    codes, outputs = run_tasks(slurm, tmp_path, f"dataset_base_path={drawn}", "trainer.num_nodes=3")
    assert codes == [1, 1]
    assert outputs[0].count("InputError: found trainer.num_nodes=3, but with srun it is 2") == 1
    assert outputs[1] == ""


def test_a_process_alone_is_the_only_one_of_its_node():
    with first_of_node_first():
        assert num_ranks_of_node() == 1


def test_a_run_on_a_chosen_gpu_makes_it_the_current_one(monkeypatch):
    """Precision, memory and name of the device are then its own."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    with Ranks(Placement(), TrainerConfig(devices="1,"), "cuda"):
        assert chosen == [torch.device("cuda", 1)]


@pytest.mark.parametrize(
    ("nodes", "bound", "networks"),
    [(["a", "a"], torch.device("cuda", 1), []), (["a", "a", "b", "b"], None, ["10.0.0.2"])],
)
def test_groups_of_gpus(nodes, bound, networks, monkeypatch):
    """NCCL's group is bound to the rank's GPU only where no rank is outside its node's group. gloo is told its network."""
    arguments, chosen = {}, []
    monkeypatch.setattr(ranks_module, "choose_network", chosen.append)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *_, **given: arguments.update(given))
    monkeypatch.setattr(torch.distributed, "new_group", lambda *_, **given: None)
    ranks = Ranks(Placement("torchrun", rank=1, world_size=len(nodes), local_rank=1, node="a"), TrainerConfig(), "cuda")
    ranks._gpu, ranks._meeting = torch.device("cuda", 1), SimpleNamespace(address="10.0.0.2", group_store=lambda: None)
    ranks.num_nodes = len(set(nodes))
    watch = SimpleNamespace(members=[SimpleNamespace(rank=rank, node=node) for rank, node in enumerate(nodes)])
    ranks._join_groups(watch)
    assert arguments["device_id"] == bound
    assert chosen == networks
