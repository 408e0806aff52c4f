"""summary.json, and a log line per epoch."""

import hashlib
import json
import logging
import time
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only

from ocr.atomic_write import write_durably
from ocr.config import TrainConfig
from ocr.environment import git_commit, package_versions
from ocr.loaders.loader import BatchLoader
from ocr.training.boards import log_figures
from ocr.training.callbacks.caches import CacheReport
from ocr.training.callbacks.verdict import VerdictLog
from ocr.training.scores import STRICT_IOU, scores_of_sets
from ocr.training.trainer_parts import dbnet_module, gather_from_ranks, train_loader, val_loaders

log = logging.getLogger(__name__)


class RunSummary(Callback):
    """Measures each epoch, logs a line for it, and keeps summary.json up to date."""

    def __init__(self, config: TrainConfig, run_dir: Path, device: str) -> None:
        self.path = run_dir / "summary.json"
        self.summary: dict[str, Any] = {
            "hmean": None,
            "precision": None,
            "recall": None,
            "best_epoch": None,
            "epochs": [],
            "failed_files": {},
            "device": device,
            "versions": package_versions(),
            "git_commit": git_commit(),
            "config_sha256": hashlib.sha256(config.model_dump_json().encode()).hexdigest(),
        }
        self._train_started = 0.0
        self._val_started = 0.0
        self._epoch: dict[str, Any] = {}
        """Figures of the epoch in progress."""
        self._caches = CacheReport()
        self._verdicts = VerdictLog()

    def state_dict(self) -> dict[str, Any]:
        keys = ("hmean", "precision", "recall", "best_epoch", "epochs", "sets")
        restored = {key: self.summary[key] for key in keys if key in self.summary}
        return {"summary": restored, "epoch": self._epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.summary.update(state_dict["summary"])
        self._epoch = state_dict["epoch"]  # a checkpoint written after a validation is still within its epoch
        self._train_started = time.perf_counter()

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        train_loader(trainer).reset_statistics()
        self._train_started = time.perf_counter()
        self._epoch = {"epoch": trainer.current_epoch}

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._finish_training(trainer)
        for loader in val_loaders(trainer):
            loader.reset_statistics()
        self._val_started = time.perf_counter()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        loaders = val_loaders(trainer)
        seconds = dbnet_module(pl_module).evaluation.seconds
        self._epoch |= {
            "val_seconds": time.perf_counter() - self._val_started,
            "val_data_wait_seconds": sum(loader.wait_seconds for loader in loaders),
            "val_forward_seconds": seconds.forward,
            "val_device_postprocess_seconds": seconds.device_postprocess,
            "val_postprocess_seconds": seconds.postprocess,
            "val_metric_seconds": seconds.metric,
            "val_blocked_seconds": seconds.blocked,
        }
        if "val/loss" in trainer.callback_metrics:
            self._epoch["val_loss"] = float(trainer.callback_metrics["val/loss"])
        scores = {name: float(trainer.callback_metrics[f"val/{name}"]) for name in ("hmean", "precision", "recall")}
        strict = f"hmean_iou{STRICT_IOU}"
        self._epoch |= scores | {strict: float(trainer.callback_metrics[f"val/{strict}"])}
        of_sets = scores_of_sets(trainer.callback_metrics)
        self._epoch |= {"sets": of_sets} if of_sets else {}
        if self.summary["hmean"] is None or scores["hmean"] > self.summary["hmean"]:
            self.summary |= scores | {"best_epoch": trainer.current_epoch} | ({"sets": of_sets} if of_sets else {})
        self._add_failures(trainer, loaders)
        figures = self._caches.figures(trainer, "val", loaders)
        self._epoch |= {f"cache_{name}": count for name, count in figures.items()}

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._finish_training(trainer)
        self._epoch = {"cache_hits": 0, "cache_misses": 0, "cache_bytes": 0} | self._epoch
        self._epoch["train_loss"] = float(trainer.callback_metrics["train/total_loss"])
        self.summary["epochs"].append(self._epoch)
        self.write()
        if trainer.is_global_zero:
            log.info("%s", epoch_line(self._epoch, trainer.max_epochs))
            self._verdicts.log_epoch(
                self._epoch, is_last=trainer.should_stop or self._epoch["epoch"] + 1 == trainer.max_epochs
            )

    @rank_zero_only
    def write(self) -> None:
        """Writes summary.json."""
        write_durably(self.path, json.dumps(self.summary, indent=1).encode())

    def _finish_training(self, trainer: lightning.Trainer) -> None:
        """Adds the training figures of the epoch, once: before its validation or, without one, at its end."""
        if "train_seconds" in self._epoch:
            return
        loader = train_loader(trainer)
        seconds = time.perf_counter() - self._train_started
        self._epoch |= {
            "train_seconds": seconds,
            "train_data_wait_seconds": loader.wait_seconds,
            "train_target_seconds": loader.target_seconds,
            "train_images_per_second": loader.num_images * trainer.world_size / seconds,
        }
        log_figures(
            trainer,
            {
                "train/images_per_second": self._epoch["train_images_per_second"],
                "train/data_wait_seconds": loader.wait_seconds,
                "train/data_wait_share": loader.wait_seconds / max(seconds, 1e-9),
            },
        )
        self._add_failures(trainer, [loader])
        figures = self._caches.figures(trainer, "train", [loader])
        self._epoch |= {f"train_cache_{name}": count for name, count in figures.items()}

    def _add_failures(self, trainer: lightning.Trainer, loaders: list[BatchLoader]) -> None:
        failures = {path: reason for loader in loaders for path, reason in loader.failures.items()}
        for rank_failures in gather_from_ranks(trainer, failures):
            self.summary["failed_files"] |= rank_failures


def epoch_line(epoch: dict[str, Any], max_epochs: int | None) -> str:
    """Returns the figures of an epoch as one line."""
    waiting = epoch["train_data_wait_seconds"] / max(epoch["train_seconds"], 1e-9)
    line = (
        f"epoch {epoch['epoch'] + 1}/{max_epochs}: loss {epoch['train_loss']:.3f}, "
        f"{epoch['train_images_per_second']:.1f} images/s, {waiting:.0%} of {epoch['train_seconds']:.1f} s waiting for data"
    )
    if "hmean" in epoch:
        line += (
            f" | val hmean {epoch['hmean']:.4f} (precision {epoch['precision']:.4f}, recall {epoch['recall']:.4f}) "
            f"in {epoch['val_seconds']:.1f} s"
        )
    if "sets" in epoch:
        line += "; hmean of " + ", ".join(f"{name} {scores['hmean']:.4f}" for name, scores in epoch["sets"].items())
    return line
