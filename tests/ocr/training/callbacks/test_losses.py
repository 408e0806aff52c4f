"""The rows of losses are those of a plain reference, whatever ends the run, and no loss is lost."""

import os
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from ocr.training.callbacks.losses import LossLog
from ocr.training.interruption import leave_signals_alone
from ocr.training.metrics_file import MetricsFile

NAMES = ("total", "shrink", "thresh", "binary")
BATCH_SIZES = (2, 3, 2, 3, 1)
"""Images of the batches of an epoch."""


class Loader:
    """Hands out batches of the sizes above."""

    def __len__(self) -> int:
        return len(BATCH_SIZES)

    def __iter__(self) -> Iterator[Any]:
        for size in BATCH_SIZES:
            yield SimpleNamespace(images=torch.zeros(size, 1), samples=SimpleNamespace(indices=np.arange(size)))


class Module(lightning.LightningModule):
    """Logs random losses, the same in each run."""

    def __init__(self, rank: int = 0, last_loss: float | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.seen: list[torch.Tensor] = []
        self._random = torch.Generator().manual_seed(rank)
        self._last_loss = last_loss

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, torch.Tensor]:
        losses = torch.rand(4, generator=self._random)
        if self._last_loss is not None and batch_idx == len(BATCH_SIZES) - 1:
            losses.fill_(self._last_loss)
        self.seen.append(losses)
        return {"loss": self.weight * losses[0], "losses": losses}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Rows(Logger):
    """Keeps the logged rows."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, dict[str, float]]] = []

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append((step or 0, metrics))

    def steps(self) -> list[int]:
        return [step for step, row in self.rows if "train/total_loss_step" in row]


def fit(
    module: Module,
    callbacks: Sequence[Callback] = (),
    logger: Logger | None = None,
    *,
    every: int = 2,
    losses: LossLog | None = None,
    **settings: Any,
) -> Any:
    logger = Rows() if logger is None else logger
    trainer = lightning.Trainer(
        accelerator="cpu",
        logger=logger,
        callbacks=[losses or LossLog(every), *callbacks],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        **{"max_epochs": 2, "devices": 1} | settings,
    )
    leave_signals_alone(trainer)  # as in a real run
    trainer.fit(module, train_dataloaders=Loader())
    return logger


def step_row(losses: torch.Tensor, epoch: int) -> dict[str, float]:
    values = {f"train/{name}_loss_step": value for name, value in zip(NAMES, losses.tolist(), strict=True)}
    return values | {"epoch": epoch}


def epoch_row(epoch_losses: Sequence[torch.Tensor], epoch: int) -> dict[str, float]:
    """Returns the means as Lightning's own log() computes them: summed step by step in float32."""
    sums = np.zeros(4, np.float32)
    for losses, size in zip(epoch_losses, BATCH_SIZES, strict=True):
        sums += losses.numpy() * np.float32(size)
    means = (sums / np.float32(sum(BATCH_SIZES))).tolist()
    return {f"train/{name}_loss_epoch": mean for name, mean in zip(NAMES, means, strict=True)} | {"epoch": epoch}


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("every", [1, 2, 3])
def test_rows_are_those_of_a_plain_reference(accumulate, every):
    module = Module()
    rows = fit(module, accumulate_grad_batches=accumulate, every=every)
    expected, step = [], 0
    num = len(BATCH_SIZES)
    for epoch in range(2):
        losses = module.seen[epoch * num : (epoch + 1) * num]
        for batch in range(num):
            if (batch + 1) % accumulate and batch + 1 < num:
                continue
            step += 1
            if step % every == 0:
                expected.append((step - 1, step_row(losses[batch], epoch)))
        expected.append((step - 1, epoch_row(losses, epoch)))
    assert rows.rows == expected


class StopAt(Callback):
    """Ends the run after a number of steps, by should_stop or by an exception."""

    def __init__(self, num_steps: int, error: BaseException | None = None) -> None:
        self._num_steps, self._error = num_steps, error

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step == self._num_steps:
            if self._error is not None:
                raise self._error
            trainer.should_stop = True


def test_a_stopped_run_logs_its_last_step():
    assert fit(Module(), [StopAt(3)]).steps() == [1, 2]


@pytest.mark.parametrize("num_steps", [3, 4])
def test_a_run_that_ends_with_an_error_logs_its_last_step(num_steps):
    rows = Rows()
    with pytest.raises(ValueError, match="broken"):
        fit(Module(), [StopAt(num_steps, ValueError("broken"))], rows)
    assert rows.steps() == [1, num_steps - 1]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_all_losses_are_checked_once_and_in_order(accumulate):
    module, checked, numbers = Module(), [], []

    def check(_: Any, batches: Any, losses: torch.Tensor) -> None:
        checked.extend(losses)
        numbers.extend((batch.num_steps, batch.ends_step, len(batch.indices)) for batch in batches)

    trainer_settings = {"accumulate_grad_batches": accumulate, "max_epochs": 1}
    fit(module, losses=LossLog(2, check), **trainer_settings)
    assert torch.equal(torch.stack(checked), torch.stack(module.seen))
    expected = {1: [1, 2, 3, 4, 5], 2: [0, 1, 1, 2, 3]}[accumulate]
    ends = [(batch + 1) % accumulate == 0 or batch == 4 for batch in range(5)]
    assert numbers == list(zip(expected, ends, BATCH_SIZES, strict=True))


def test_a_loss_that_is_not_a_number_stands_in_metrics_csv(tmp_path):
    fit(Module(last_loss=float("nan")), (), MetricsFile(tmp_path / "metrics.csv"), every=5, max_epochs=1)
    header, *lines = (tmp_path / "metrics.csv").read_text().splitlines()
    by_name = [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]
    assert [row["train/total_loss_step"] for row in by_name] == ["nan", ""]
    assert by_name[1]["train/total_loss_epoch"] == "nan"


class SaveAt(Callback):
    """Writes a checkpoint after a step, and notes the rows logged until then."""

    def __init__(self, path: Path, num_steps: int, rows: Rows) -> None:
        self.path, self.num_steps, self.rows = path, num_steps, rows
        self.steps: list[int] = []

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step == self.num_steps:
            trainer.save_checkpoint(self.path)
            self.steps = self.rows.steps()


@pytest.mark.parametrize("num_steps", [2, 3])  # the last losses are being copied, or are not copied yet
def test_a_run_resumed_within_an_epoch_logs_the_mean_of_the_whole_epoch(tmp_path, num_steps):
    rows = Rows()
    whole = Module()
    save = SaveAt(tmp_path / "middle.ckpt", num_steps, rows)
    fit(whole, [save], rows, max_epochs=1)
    assert save.steps == [1], "the step before the checkpoint is logged before it"
    losses = LossLog(2)
    losses.load_state_dict(torch.load(save.path, weights_only=True)["callbacks"]["LossLog"])
    saved = losses.state_dict()
    assert saved["num_images"] == sum(BATCH_SIZES[:num_steps])
    batches = zip(whole.seen[:num_steps], BATCH_SIZES[:num_steps], strict=True)
    expected = sum(loss.numpy() * np.float32(size) for loss, size in batches)
    assert np.array_equal(np.float32(saved["sums"]), expected)


class Broadcasts(Callback):
    """Counts the broadcasts from the start of an epoch to its end."""

    def __init__(self) -> None:
        self.during_epoch = 0

    def on_train_epoch_start(self, *_: Any) -> None:
        original = torch.distributed.broadcast

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.during_epoch += 1
            return original(*args, **kwargs)

        torch.distributed.broadcast = counted  # in a process of its own


def ddp_rank(rank: int, port: int, folder: Path) -> None:
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "0",
        "TORCHELASTIC_RUN_ID": "test",
    }
    module, rows, broadcasts = Module(rank), Rows(), Broadcasts()
    fit(module, [broadcasts], rows, devices=2, strategy="ddp", max_epochs=1)
    torch.save({"rows": rows.rows, "seen": module.seen, "broadcasts": broadcasts.during_epoch}, folder / f"{rank}.pt")


def test_two_ranks_log_their_common_mean_and_exchange_no_flag_before_a_batch(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    from tests.programs import Program  # not above: the ranks run this file too, where `tests` may be another package

    # Not forks of this process: PyTorch refuses a backward pass in a fork of one that has made one in threads.
    ranks = [
        Program(Path(__file__), str(rank), str(port), str(tmp_path), cwd=tmp_path, merged=True) for rank in range(2)
    ]
    ended = [rank.wait(60) for rank in ranks]
    assert [rank.returncode for rank in ended] == [0, 0], [rank.stdout for rank in ended]
    results = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    means = [epoch_row(result["seen"], 0)["train/total_loss_epoch"] for result in results]
    for rank, result in enumerate(results):
        assert result["broadcasts"] == 0
        assert [row for row in result["rows"] if row[0] == 1] == [(1, step_row(results[rank]["seen"][1], 0))]
        assert result["rows"][-1][1]["train/total_loss_epoch"] == pytest.approx(sum(means) / 2, rel=1e-6)


if __name__ == "__main__":
    ddp_rank(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
