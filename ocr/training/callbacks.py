"""What a run shows and writes: progress bar, a line an epoch, summary.json, pictures."""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only

from ocr.cache.budget import NEARLY_FULL
from ocr.config import TrainConfig
from ocr.environment import git_commit, package_versions
from ocr.loaders.loader import BatchLoader
from ocr.machine import free_ram, resident_set, total_ram
from ocr.predictions import draw_picture, save_picture
from ocr.training.module import STRICT_IOU, DBNetModule
from ocr.training.verdict import LOW_HIT_RATE, training_verdict, validation_verdict

log = logging.getLogger(__name__)


class ProgressBar(RichProgressBar):
    """Lightning's bar, with the loss and the share of the epoch spent waiting for data."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=5)
        self._epoch_started = time.perf_counter()
        self._shown: dict[str, Any] = {}
        self._shown_at = 0.0

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        super().on_train_epoch_start(trainer, pl_module)
        self._epoch_started = time.perf_counter()

    def get_metrics(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> dict[str, Any]:
        # Lightning asks after each batch; reading the loss waits for the device, so twice a second is enough.
        now = time.perf_counter()
        if now - self._shown_at < 0.5:
            return self._shown
        metrics: dict[str, Any] = {}
        callback_metrics = trainer.callback_metrics
        for shown, name in (("loss", "train/total_loss"), ("hmean", "val/hmean")):
            if name in callback_metrics:
                metrics[shown] = f"{callback_metrics[name].item():.3f}"
        loader = trainer.train_dataloader
        if isinstance(loader, BatchLoader):
            metrics["waiting"] = f"{loader.wait_seconds / max(now - self._epoch_started, 1e-9):.0%}"
        self._shown, self._shown_at = metrics, now
        return metrics


class RunSummary(Callback):
    """Times each epoch, logs one line for it, and keeps summary.json up to date."""

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
        self._cached_before: set[str] = set()
        """Splits whose first epoch, which fills the caches, is over."""
        self._epoch: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        seen = {key: self.summary[key] for key in ("hmean", "precision", "recall", "best_epoch", "epochs")}
        return {"summary": seen, "epoch": self._epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.summary.update(state_dict["summary"])
        self._epoch = state_dict["epoch"]  # a checkpoint written after a validation lies within its epoch
        self._train_started = time.perf_counter()

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        _loader(trainer.train_dataloader).reset_statistics()
        self._train_started = time.perf_counter()
        self._epoch = {"epoch": trainer.current_epoch}

    def _finish_training(self, trainer: lightning.Trainer) -> None:
        """The training figures of the epoch, once: at its validation or, without one, at its end."""
        if "train_seconds" in self._epoch:
            return
        loader = _loader(trainer.train_dataloader)
        seconds = time.perf_counter() - self._train_started
        self._epoch |= {
            "train_seconds": seconds,
            "train_data_wait_seconds": loader.wait_seconds,
            "train_target_seconds": loader.target_seconds,
            "train_images_per_second": loader.num_images * trainer.world_size / seconds,
        }
        self._add_failures(trainer, [loader])
        figures = self._log_caches(trainer, "train", [loader])
        self._epoch |= {f"train_cache_{name}": count for name, count in figures.items()}

    def _add_failures(self, trainer: lightning.Trainer, loaders: list[BatchLoader]) -> None:
        failures = {path: reason for loader in loaders for path, reason in loader.failures.items()}
        for of_rank in _gathered(trainer, failures):
            self.summary["failed_files"] |= of_rank

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._finish_training(trainer)
        for loader in _as_list(trainer.val_dataloaders):
            loader.reset_statistics()
        self._val_started = time.perf_counter()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        loaders = _as_list(trainer.val_dataloaders)
        seconds = _module(pl_module).evaluation.seconds
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
        if self.summary["hmean"] is None or scores["hmean"] > self.summary["hmean"]:
            self.summary |= scores | {"best_epoch": trainer.current_epoch}
        self._add_failures(trainer, loaders)
        self._epoch |= {f"cache_{name}": count for name, count in self._log_caches(trainer, "val", loaders).items()}
        self._log_memory(trainer)

    def _log_caches(self, trainer: lightning.Trainer, split: str, loaders: list[BatchLoader]) -> dict[str, int]:
        """Hits, misses and bytes of a split's caches in this epoch, over all ranks. Logs them, and warns of a low hit rate."""
        num_bytes: dict[str, int] = {}
        for loader in loaders:
            for tier, count in loader.cache_bytes.items():
                num_bytes[tier] = num_bytes.get(tier, 0) + count
        hits, misses, *by_tier = _summed_over_ranks(
            trainer,
            [
                sum(loader.statistics.epoch_hits for loader in loaders),
                sum(loader.statistics.epoch_misses for loader in loaders),
                *num_bytes.values(),
            ],
        )
        figures = {"hits": hits, "misses": misses, "bytes": sum(by_tier)}
        if hits + misses == 0:
            return figures
        rate = hits / (hits + misses)
        scalars = {f"cache/{split}_bytes_{tier}": count for tier, count in zip(num_bytes, by_tier, strict=True)}
        self._log_scalars(trainer, scalars | {f"cache/{split}_hit_rate": rate})
        for loader in loaders:
            if loader.statistics.log_every_n is None and trainer.is_global_zero:
                log.info("%s", loader.statistics.line())
        if split in self._cached_before and rate < LOW_HIT_RATE and trainer.is_global_zero:
            log.warning(
                "cache: only %.0f %% of the %s samples came from the cache; give it more room (cache_config.ram_budget, "
                "device_budget, directory) or take performance=constrained, which needs half",
                100 * rate,
                {"val": "validation", "train": "training"}[split],
            )
        self._cached_before.add(split)
        return figures

    def _log_memory(self, trainer: lightning.Trainer) -> None:
        """Memory in use; warns where little is left."""
        figures = {"RAM": (free_ram(), total_ram())}
        scalars = {"memory/ram_used": resident_set(), "memory/ram_free": free_ram()}
        device = trainer.strategy.root_device
        if device.type == "cuda":
            figures["GPU memory"] = torch.cuda.mem_get_info(device)  # DALI's share too, unlike torch's own count
            scalars["memory/gpu_used"] = figures["GPU memory"][1] - figures["GPU memory"][0]
        self._log_scalars(trainer, scalars)
        for what, (free, total) in figures.items():
            if free < NEARLY_FULL * total:
                log.warning(
                    "memory: %.1f of %.1f GB of %s are left; lower cache_config.ram_budget or device_budget, or take "
                    "performance=constrained",
                    free / 1e9,
                    total / 1e9,
                    what,
                )

    def _log_scalars(self, trainer: lightning.Trainer, scalars: Mapping[str, float]) -> None:
        for logger in trainer.loggers:
            logger.log_metrics(dict(scalars), step=trainer.global_step)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._finish_training(trainer)
        self._epoch = {"cache_hits": 0, "cache_misses": 0, "cache_bytes": 0} | self._epoch
        self._epoch["train_loss"] = float(trainer.callback_metrics["train/total_loss"])
        self.summary["epochs"].append(self._epoch)
        self.write()
        if trainer.is_global_zero:
            log.info("%s", epoch_line(self._epoch, trainer.max_epochs))
            log.info("%s", training_verdict(self._epoch))
            if "val_seconds" in self._epoch:
                log.info("%s", validation_verdict(self._epoch))

    @rank_zero_only
    def write(self) -> None:
        """Brings summary.json up to date."""
        self.path.write_text(json.dumps(self.summary, indent=1))


def epoch_line(epoch: dict[str, Any], max_epochs: int | None) -> str:
    """One epoch in words."""
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
    return line


class BestCheckpoint(ModelCheckpoint):
    """best.ckpt. A resumed run has a folder of its own: the best checkpoint so far moves in, with its score."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        best_so_far, score = Path(state_dict["best_model_path"]), state_dict["best_model_score"]
        if best_so_far.is_file() and score is not None and self.dirpath is not None:
            moved = Path(self.dirpath) / best_so_far.name
            if moved != best_so_far:
                moved.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(best_so_far, moved)
            best = {"best_model_path": str(moved), "best_k_models": {str(moved): score}, "dirpath": self.dirpath}
            super().load_state_dict(state_dict | best | {"kth_best_model_path": str(moved)})


class ValidateLastEpoch(Callback):
    """Validates the last epoch, whatever check_val_every_n_epoch is: a run always ends with its score."""

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.on_train_epoch_start(trainer, pl_module)  # which is not called on a resume in the middle of the last epoch

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.max_epochs is not None and trainer.current_epoch + 1 == trainer.max_epochs:
            trainer.check_val_every_n_epoch = 1


class DetectionPictures(Callback):
    """Draws detections over the first validation images, into pictures/ and TensorBoard."""

    def __init__(self, run_dir: Path, num_pictures: int) -> None:
        self.directory = run_dir / "pictures"
        self.num_pictures = num_pictures

    @rank_zero_only
    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        dataset = _as_list(trainer.val_dataloaders)[0].dataset
        found = _module(pl_module).evaluation.detections_original
        for index in sorted(found)[: self.num_pictures]:
            pixels = dataset.load_image(index).image_array
            truth = dataset.manifest.polygons
            picture = draw_picture(pixels, found[index], truth.polygons_of(index), truth.ignore_of(index))
            name = dataset.manifest.filenames[index]
            save_picture(picture, self.directory, name)
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_image(
                        f"val/{name}", np.asarray(picture), trainer.global_step, dataformats="HWC"
                    )


def _gathered(trainer: lightning.Trainer, value: Any) -> list[Any]:
    """The value of each rank."""
    if trainer.world_size == 1:
        return [value]
    of_ranks: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(of_ranks, value)
    return of_ranks


def _summed_over_ranks(trainer: lightning.Trainer, counts: list[int]) -> list[int]:
    return [sum(column) for column in zip(*_gathered(trainer, counts), strict=True)]


def _module(module: lightning.LightningModule) -> DBNetModule:
    if not isinstance(module, DBNetModule):
        raise TypeError(f"the trainer's module is a {type(module).__name__}; a DBNetModule is needed")
    return module


def _loader(loader: Any) -> BatchLoader:
    if not isinstance(loader, BatchLoader):
        raise TypeError(f"the trainer's loader is a {type(loader).__name__}; a BatchLoader is needed")
    return loader


def _as_list(loaders: Any) -> list[BatchLoader]:
    return [_loader(loader) for loader in (loaders if isinstance(loaders, list) else [loaders])]
