"""Signals, time limits and checkpoints inside an epoch: the run that continues ends as the one that was never stopped."""

import json
import logging
import os
import pty
import signal
import time
from pathlib import Path

import lightning
import pytest
import torch

from ocr.training.fit import train
from ocr.training.interruption import StopSignals
from ocr.training.run_folder import newest_checkpoint

AVERAGED = ("trainer.ema_decay=0.9", "trainer.accumulate_grad_batches=2")


class Signal(lightning.Callback):
    """Sends a signal to this process at a chosen place of the second epoch."""

    def __init__(self, signum: int, place: str) -> None:
        self.signum, self.place = signum, place

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        places = {1: "within the epoch", trainer.num_training_batches - 1: "at the last batch"}
        if trainer.current_epoch == 1 and places.get(batch_idx) == self.place:
            os.kill(os.getpid(), self.signum)

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        if trainer.current_epoch == 1 and self.place == "in validation":
            os.kill(os.getpid(), self.signum)


@pytest.fixture(autouse=True)
def hangups_are_heard():
    """Hears SIGHUP even if the tests themselves run under nohup, whose child ignores it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(scope="module")
def whole(tiny_run, tmp_path_factory) -> dict[tuple[str, ...], Path]:
    """Folders of uninterrupted runs, by their overrides."""
    folders = {}
    for overrides in ((), AVERAGED):
        folders[overrides] = tmp_path_factory.mktemp("whole")
        train(tiny_run(*overrides), folders[overrides])
    return folders


def assert_same_end(folder: Path, other: Path) -> None:
    first, second = (torch.load(path / "checkpoints/last.ckpt", weights_only=True) for path in (folder, other))
    for part in ("state_dict", "current_model_state"):
        for key, tensor in first.get(part, {}).items():
            assert torch.equal(tensor, second[part][key]), key
    assert (folder / "predictions.json").read_bytes() == (other / "predictions.json").read_bytes()
    epochs, others = (json.loads((path / "summary.json").read_text())["epochs"] for path in (folder, other))
    for name in ("epoch", "hmean", "precision", "recall", "val_loss"):
        assert [epoch[name] for epoch in epochs] == [epoch[name] for epoch in others]


@pytest.mark.parametrize(
    ("signum", "place", "overrides"),
    [
        (signal.SIGINT, "at the last batch", ()),
        (signal.SIGTERM, "in validation", ()),
        (signal.SIGINT, "within the epoch", AVERAGED),
        (signal.SIGTERM, "in validation", AVERAGED),
        (signal.SIGHUP, "within the epoch", ()),
    ],
)
def test_a_run_stopped_by_a_signal_continues_bit_for_bit(tiny_run, whole, tmp_path, caplog, signum, place, overrides):
    with pytest.raises(SystemExit) as stopped, caplog.at_level(logging.WARNING):
        train(tiny_run(*overrides), tmp_path / "stopped", [Signal(signum, place)])
    assert stopped.value.code == 128 + signum
    checkpoint = tmp_path / "stopped/checkpoints/last.ckpt"
    assert caplog.messages[-1].endswith(f"To continue:\n  resume={checkpoint}")
    train(tiny_run(*overrides, f"resume={checkpoint}"), tmp_path / "resumed")
    assert_same_end(tmp_path / "resumed", whole[overrides])


def test_a_closed_terminal_is_heard_and_no_longer_written_to(tmp_path):
    process, terminal = pty.fork()
    if process == 0:
        with StopSignals() as signals:
            signals.defer()
            os.write(1, b"ready")
            deadline = time.monotonic() + 60
            while signals.received is None and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(0.2)  # the thread that hears the signal leaves the terminal
            os.write(1, b"to nobody")
            (tmp_path / "received").write_text(str(signals.received))
        os._exit(0)
    assert b"ready" in os.read(terminal, 100)
    os.close(terminal)
    assert os.waitpid(process, 0)[1] == 0
    assert (tmp_path / "received").read_text() == str(int(signal.SIGHUP))


def test_under_nohup_a_closed_terminal_is_not_heard():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            assert signals.received is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_before_the_first_step_ends_the_run_where_it_is(tiny_run, tmp_path, caplog):
    class InSetup(lightning.Callback):
        def setup(self, trainer, pl_module, stage):
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        train(tiny_run(), tmp_path, [InSetup()])
    assert stopped.value.code == 143
    assert "nothing to resume from" in caplog.messages[-1]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_new_run_in_the_folder_of_an_earlier_one_does_not_take_its_checkpoint(tiny_run, whole, tmp_path, caplog):
    class InSetup(lightning.Callback):
        def setup(self, trainer, pl_module, stage):
            os.kill(os.getpid(), signal.SIGTERM)

    (tmp_path / "checkpoints").mkdir()
    earlier = (whole[()] / "checkpoints/last.ckpt").read_bytes()
    (tmp_path / "checkpoints/last.ckpt").write_bytes(earlier)
    with pytest.raises(SystemExit):
        train(tiny_run(), tmp_path, [InSetup()])
    assert "nothing to resume from" in caplog.messages[-1]
    assert (tmp_path / "checkpoints/earlier_last.ckpt").read_bytes() == earlier
    assert newest_checkpoint(tmp_path) is None  # resume=auto does not continue the earlier run either


def test_a_command_that_fails_before_it_trains_leaves_the_checkpoint_of_an_earlier_run(tiny_run, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/last.ckpt").write_bytes(b"earlier")
    with pytest.raises(FileNotFoundError):
        train(tiny_run("dataset_base_path=/nowhere"), tmp_path)
    assert (tmp_path / "checkpoints/last.ckpt").read_bytes() == b"earlier"


def test_a_resumed_run_stopped_before_its_first_checkpoint_names_the_earlier_one(tiny_run, whole, tmp_path, caplog):
    class InSetup(lightning.Callback):
        def setup(self, trainer, pl_module, stage):
            os.kill(os.getpid(), signal.SIGTERM)

    checkpoint = whole[()] / "checkpoints/last.ckpt"
    with pytest.raises(SystemExit):
        train(tiny_run(f"resume={checkpoint}", "trainer.max_epochs=9"), tmp_path / "resumed", [InSetup()])
    assert caplog.messages[-1].endswith(f"To continue:\n  resume={checkpoint}")


def test_a_run_stopped_by_max_time_continues_bit_for_bit(tiny_run, whole, tmp_path, caplog):
    class Slow(lightning.Callback):
        """Takes longer than the time limit for the second step."""

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 1:
                time.sleep(1.01)

    train(tiny_run("trainer.max_time=00:00:00:01"), tmp_path / "stopped", [Slow()])
    checkpoint = tmp_path / "stopped/checkpoints/last.ckpt"
    assert caplog.messages[-1].endswith(f"resume={checkpoint}")
    assert torch.load(checkpoint, weights_only=True)["global_step"] in (1, 2)  # the first step may take a second too
    assert (tmp_path / "stopped/checkpoints/best.ckpt").is_file()
    train(tiny_run(f"resume={checkpoint}"), tmp_path / "resumed")
    assert_same_end(tmp_path / "resumed", whole[()])


@pytest.mark.parametrize("when", ["trainer.save_every_n_steps=3", "trainer.save_every_minutes=1e-9"])
def test_a_checkpoint_within_an_epoch_continues_bit_for_bit(tiny_run, whole, tmp_path, when):
    class Lost(lightning.Callback):
        """Ends the run in the fourth step, without any chance to save."""

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 3:
                raise ConnectionError("lost")

    with pytest.raises(ConnectionError):
        train(tiny_run(when), tmp_path, [Lost()])
    checkpoint = tmp_path / "checkpoints/last.ckpt"
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 3
    train(tiny_run(f"resume={checkpoint}"), tmp_path)
    assert_same_end(tmp_path, whole[()])


def test_the_rest_of_an_epoch_is_trained_once_in_batches_of_another_size(tiny_run, tmp_path):
    seen: list[int] = []

    class Watch(lightning.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            seen.extend(sample.index for sample in batch.samples)

    with pytest.raises(SystemExit):
        train(tiny_run(), tmp_path / "stopped", [Signal(signal.SIGTERM, "within the epoch"), Watch()])
    others = ["dataloader.batch_size=4", "resume_anyway=true"]
    train(tiny_run(*others, f"resume={tmp_path}/stopped/checkpoints/last.ckpt"), tmp_path / "resumed", [Watch()])
    assert sorted(seen[10:]) == list(range(10))


def test_a_validation_resumed_with_fewer_steps_an_epoch_trains_none(tiny_run, tmp_path):
    with pytest.raises(SystemExit):
        train(tiny_run(), tmp_path / "stopped", [Signal(signal.SIGTERM, "in validation")])
    checkpoint = tmp_path / "stopped/checkpoints/last.ckpt"
    larger = ("dataloader.batch_size=4", "resume_anyway=true")  # as with more ranks, an epoch has fewer steps
    train(tiny_run(f"resume={checkpoint}", *larger), tmp_path / "resumed")
    first, second = (
        torch.load(path / "checkpoints/last.ckpt", weights_only=True)
        for path in (checkpoint.parents[1], tmp_path / "resumed")
    )
    assert second["global_step"] == first["global_step"]
    assert all(torch.equal(tensor, second["state_dict"][key]) for key, tensor in first["state_dict"].items())


@pytest.fixture
def requeued(tmp_path, monkeypatch) -> Path:
    """Puts this process into a SLURM job. Returns the file in which a `scontrol` of our own notes its arguments."""
    notes, program = tmp_path / "requeued", tmp_path / "bin/scontrol"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {notes}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "71")
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.chdir(tmp_path)
    return notes


def test_sigusr1_puts_a_slurm_job_into_the_queue_again_where_it_continues(tiny_run, whole, requeued, tmp_path):
    config = tiny_run("resume=auto")
    with pytest.raises(SystemExit) as stopped:
        train(config, tmp_path / "run", [Signal(signal.SIGUSR1, "within the epoch")])
    assert stopped.value.code == 128 + signal.SIGUSR1
    assert requeued.read_text() == "requeue 71\n"
    assert {path.name for path in tmp_path.iterdir()} == {"bin", "requeued", "run"}
    train(config, tmp_path / "run")
    assert_same_end(tmp_path / "run", whole[()])


@pytest.mark.parametrize("overrides", [("resume=null",), ("resume=auto", "trainer.requeue=false")])
def test_a_job_that_would_not_continue_or_may_not_is_not_requeued(tiny_run, requeued, tmp_path, overrides):
    with pytest.raises(SystemExit) as stopped:
        train(tiny_run(*overrides), tmp_path / "run", [Signal(signal.SIGUSR1, "within the epoch")])
    assert stopped.value.code == 128 + signal.SIGUSR1
    assert not requeued.exists()


def test_a_checkpoint_that_lightning_left_for_slurm_is_not_read(tiny_run, whole, requeued, tmp_path):
    for folder in (tmp_path, tmp_path / "run"):
        folder.mkdir(exist_ok=True)
        (folder / "hpc_ckpt_1.ckpt").write_text("no checkpoint")
    train(tiny_run(), tmp_path / "run")
    assert_same_end(tmp_path / "run", whole[()])
