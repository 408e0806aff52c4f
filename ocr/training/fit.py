"""One training run, from its configuration to its files."""

import contextlib
import json
import logging
import signal
import time
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
import yaml
from lightning.pytorch.callbacks import Callback

from ocr.atomic_write import write_durably
from ocr.config import TrainConfig
from ocr.datasets.base import ValidatedOCRDataset
from ocr.device import resolve_device, resolve_loading, resolve_pipeline, resolve_precision
from ocr.environment import device_name
from ocr.errors import SignalExit, StorageError
from ocr.image_size import with_chosen_size
from ocr.loaders.engines import check_dali
from ocr.memory.out_of_memory import ExplainOutOfMemory
from ocr.memory.remedies import Remedy, command_with, training_remedies
from ocr.models.dbnet import AUXILIARY_PREFIX
from ocr.placement import placement
from ocr.splits import build_dataset, draw_if_synthetic, say_shared
from ocr.training.callbacks.board_log import BoardLog
from ocr.training.callbacks.checkpoints import LastCheckpoint
from ocr.training.callbacks.last_epoch import LastPredictions
from ocr.training.callbacks.memory import FollowForOutOfMemory, MemoryWatch
from ocr.training.callbacks.pictures import DetectionPictures
from ocr.training.callbacks.summary import RunSummary
from ocr.training.checkpoint_files import CheckpointFiles, check_room, checkpoint_bytes
from ocr.training.children import kill_children
from ocr.training.datamodule import DBNetDataModule
from ocr.training.initial_network import initial_network
from ocr.training.interruption import RunStopped, StopSignals, requeue_slurm_job
from ocr.training.learning_rate_search import search_learning_rate, settings_of_search
from ocr.training.module import DBNetModule
from ocr.training.ranks import Ranks, first_of_node_first, is_first_rank
from ocr.training.resume import Resumption, resumption
from ocr.training.run_folder import set_checkpoints_aside
from ocr.training.run_lock import RunLock
from ocr.training.trainer import build_trainer

log = logging.getLogger(__name__)


def train(
    config: TrainConfig, run_dir: Path, callbacks: Sequence[Callback] = (), given: Collection[str] | None = None
) -> dict[str, Any]:
    """Trains a network and returns the run's summary.

    Writes config.yaml, audit_{train,val}.json, checkpoints/{best,last}.ckpt, metrics.csv, TensorBoard events, summary.json,
    predictions.json (of the last validation) and pictures/ below `run_dir`. If `resume` names the checkpoint of a finished run,
    nothing is written.

    Args:
        callbacks: callbacks besides those that every run has.
        given: keys that the user set, written with dots; a resumed run takes all others from its checkpoint. None: all are set.

    Raises:
        OutOfMemory: RAM or GPU memory ran out. The files written until then stay.
        InputError: another run uses the folder, or `resume` names no checkpoint of this run.
        StorageError: a file cannot be written, or there is no room for checkpoints.
        SignalExit: SIGTERM (code 143) or Ctrl-C (130) ended the run. last.ckpt continues it.
    """
    place, files, ranks = placement(), CheckpointFiles(), None
    begin = partial(resumption, config, given, run_dir)
    with StopSignals() as signals:
        try:
            # torchrun and srun decide how many ranks there are; elsewhere the checkpoint's settings do, where none are given.
            start = begin() if place.starter == "itself" and place.is_first else None
            settings = (config if start is None else start.config).trainer
            ranks = Ranks(place, settings, resolve_device(config.device).type)
            with ranks:
                return _train_together(ranks, config, lambda: start or begin(), run_dir, files, signals, callbacks)
        except RunStopped as stop:  # before the ranks had met
            kill_children()
            if is_first_rank():
                _log_stop(stop, run_dir / "checkpoints" / "last.ckpt", _earlier_checkpoint(config, run_dir))
            code = 128 + stop.signum
        except SignalExit as end:
            code = int(end.code or 0)
        is_from_slurm = code > 128 and signal.Signals(code - 128).name == "SIGUSR1"
        if is_from_slurm and config.trainer.requeue and (ranks is None or ranks.speaks):
            requeue_slurm_job(config.resume)
        raise SignalExit(code)


def _train_together(
    ranks: Ranks,
    config: TrainConfig,
    begin: Callable[[], Resumption],
    run_dir: Path,
    files: CheckpointFiles,
    signals: StopSignals,
    callbacks: Sequence[Callback],
) -> dict[str, Any]:
    """Trains with all ranks, in the run folder of the first one. A signal ends them together."""
    run_dir = ranks.from_first(lambda: run_dir.absolute())
    path, start = run_dir / "checkpoints" / "last.ckpt", None
    with RunLock(run_dir) if is_first_rank() else contextlib.nullcontext():
        try:
            start = ranks.from_first(begin)
            if start.finished is not None:
                return start.finished
            start = replace(start, config=ranks.from_first(partial(with_chosen_size, start.config)))
            last = LastCheckpoint(path, start.config.trainer, files, signals)
            with ExplainOutOfMemory(partial(_remedies, start.config, files, path)) as explain:
                return _train(ranks, start, run_dir, files, last, [FollowForOutOfMemory(explain), *callbacks])
        except RunStopped as stop:
            if not stop.is_saved:
                ranks.claim(128 + stop.signum)
                kill_children()
            files.finish()  # an error of the last write must come before the line that names the file
            if is_first_rank() or not stop.is_saved:
                _log_stop(stop, path, _earlier_checkpoint(config, run_dir) if start is None else start.config.resume)
            raise SignalExit(128 + stop.signum) from None


def _train(
    ranks: Ranks,
    start: Resumption,
    run_dir: Path,
    files: CheckpointFiles,
    last: LastCheckpoint,
    callbacks: Sequence[Callback],
) -> dict[str, Any]:
    config = start.config
    if config.engine == "dali":
        check_dali(config.loader)  # before the data set is read
    log.info("writing to %s", run_dir)
    started = time.perf_counter()
    lightning.seed_everything(config.seed, verbose=False)
    device = resolve_device(config.device)
    precision = ranks.from_first(partial(_precision_of_run, start, device))
    start.check_precision(device.type, precision)
    train_set, val_set = _build_splits(config, precision, run_dir)
    start.check_data({"train": train_set.manifest, "val": val_set.manifest})
    if is_first_rank():
        write_durably(run_dir / "config.yaml", yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False).encode())
    module = DBNetModule(initial_network(config), config, val_set.manifest)
    search = config.trainer.lr_find_steps is not None
    if is_first_rank():
        averaged = config.trainer.ema_decay is not None
        check_room(run_dir / "checkpoints", checkpoint_bytes(module.model, config.optimizer.name, averaged=averaged))
        # Only now: a command that fails before it trains, at a wrong path for instance, leaves an earlier run as it was.
        if config.resume is None and not config.trainer.fast_dev_run and not search:
            set_checkpoints_aside(run_dir)
    data = DBNetDataModule(
        train_set, val_set, config.dataloader, loader=config.engine, val_targets=config.trainer.val_loss
    )
    summary = RunSummary(config, run_dir, device_name(device))
    pictures = DetectionPictures(run_dir, config.logger.num_pictures, summary.summary)
    board_log = BoardLog(config, config.logger.num_pictures)
    predictions = LastPredictions(run_dir / "predictions.json", val_set.manifest)
    run_callbacks = [predictions, MemoryWatch(summary.summary), summary, pictures, board_log, *callbacks, last]
    trainer = build_trainer(
        settings_of_search(config) if search else config,
        ranks,
        precision,
        run_dir,
        files,
        run_callbacks,
        start.first_step,
    )
    _log_network(module, precision, device_name(device))
    ranks.start_training()
    if search:
        return search_learning_rate(trainer, module, data, run_dir)
    _fit(trainer, module, data, summary)
    if trainer.is_global_zero:
        predictions.write(module.evaluation)
        _log_result(summary.summary, time.perf_counter() - started)
        log.info("everything is in %s", run_dir)
        if last.time_is_up:
            _log_state("trainer.max_time", last.path)
    return json.loads(json.dumps(summary.summary))


def _precision_of_run(start: Resumption, device: torch.device) -> str:
    """Returns Lightning's name for the precision. With auto, a run resumed on the same type of device keeps its precision."""
    if start.config.trainer.precision == "auto" and start.precision.get("device_type") == device.type:
        return start.precision["precision"]
    return resolve_precision(start.config.trainer.precision, device)


def _build_splits(
    config: TrainConfig, precision: str, run_dir: Path
) -> tuple[ValidatedOCRDataset, ValidatedOCRDataset]:
    """Returns the audited data sets of training and validation. On each node one rank audits before the others."""
    config = config.model_copy(update={"pipeline": resolve_pipeline(config.pipeline, precision)})
    with first_of_node_first():
        draw_if_synthetic(config)
        train_set, val_set = (
            build_dataset(
                config.datasets.split(name),
                config,
                training=name == "train",
                report_path=run_dir / f"audit_{name}.json" if is_first_rank() else None,
            )
            for name in ("train", "val")
        )
    if is_first_rank():
        say_shared(train_set.manifest, val_set.manifest)
    return train_set, val_set


def _fit(trainer: lightning.Trainer, module: DBNetModule, data: DBNetDataModule, summary: RunSummary) -> None:
    """Trains, from the checkpoint of `resume` if there is one. A run stopped before its first validation is validated now."""
    # Lightning asks for val/hmean after epochs without validation too, when there is none yet.
    warnings.filterwarnings("ignore", message="`ModelCheckpoint\\(monitor='val/hmean'\\)` could not find")
    try:
        trainer.fit(module, datamodule=data, ckpt_path=module.config.resume, weights_only=True)
    except Exception:
        summary.write()
        raise
    finally:  # Lightning skips the teardown when a run ends with an error
        module.teardown("fit")
        data.teardown("fit")
    if summary.summary["hmean"] is None:
        trainer.validate(module, datamodule=data, verbose=False)
    summary.write()  # with the time of the last pictures


def _log_network(module: DBNetModule, precision: str, device: str) -> None:
    config, named = module.config, module.model.named_parameters()
    parameters = [parameter for name, parameter in named if not name.startswith(AUXILIARY_PREFIX)]
    num_trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    log.info(
        "%s with %s, %.1f M parameters%s, %s, loader=%s, on %s",
        "DBNet++" if config.model.adaptive_fusion else "DBNet",
        config.model.backbone.name,
        sum(parameter.numel() for parameter in parameters) / 1e6,
        ""
        if config.model.freeze == "none"
        else f" ({num_trained / 1e6:.1f} M trained, model.freeze={config.model.freeze})",
        precision,
        config.loader,
        device,
    )


def _log_result(summary: dict[str, Any], seconds: float) -> None:
    if summary["hmean"] is not None:
        log.info(
            "best validation hmean %.4f (precision %.4f, recall %.4f) after epoch %d; %.0f s in total",
            *(summary[name] for name in ("hmean", "precision", "recall")),
            summary["best_epoch"] + 1,
            seconds,
        )


def _remedies(config: TrainConfig, files: CheckpointFiles, last_checkpoint: Path, in_validation: bool) -> list[Remedy]:
    """Returns what to try after memory ran out. A checkpoint that is being written counts."""
    with contextlib.suppress(StorageError):
        files.wait_for(last_checkpoint)
    loading = resolve_loading(config.dataloader, config.pipeline.image_size, resolve_device(config.device))
    return training_remedies(config.model_copy(update={"dataloader": loading}), last_checkpoint, in_validation)


def _earlier_checkpoint(config: TrainConfig, run_dir: Path) -> str | None:
    """Returns the checkpoint that a run stopped before it could read one would have begun with."""
    path = run_dir / "checkpoints" / "last.ckpt"
    return (str(path) if path.is_file() else None) if config.resume == "auto" else config.resume


def _log_stop(stop: RunStopped, checkpoint: Path, resumed_from: str | None) -> None:
    """Logs which signal ended the run and how to continue it; the last lines of the log.

    Args:
        resumed_from: the checkpoint that the run began with; it still holds when the run has not written one.
    """
    name = signal.Signals(stop.signum).name
    if stop.is_saved:
        _log_state(name, checkpoint)
    elif resumed_from is not None:
        _log_state(name, Path(resumed_from))
    else:
        log.warning("%s ended the run before its first checkpoint; there is nothing to resume from", name)


def _log_state(ended_by: str, checkpoint: Path) -> None:
    command = command_with({"resume": str(checkpoint)})
    log.warning("%s ended the run. Its state is in %s. To continue:\n  %s", ended_by, checkpoint, command)
