"""One training run, from its configuration to its files."""

import json
import logging
import sys
import time
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
import yaml
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from ocr.config import LoggerConfig, TrainConfig
from ocr.device import resolve_device, resolve_pipeline, resolve_precision
from ocr.environment import device_name
from ocr.memory.network import NetworkMemory, StepMemory
from ocr.memory.out_of_memory import ExplainShortages, remedy_lines, training_remedies
from ocr.memory.plan import MemoryWatch
from ocr.models.dbnet import build_dbnet
from ocr.predictions import write_predictions
from ocr.splits import build_dataset, draw_if_synthetic
from ocr.training.callbacks import BestCheckpoint, DetectionPictures, ProgressBar, RunSummary, ValidateLastEpoch
from ocr.training.datamodule import DBNetDataModule
from ocr.training.module import DBNetModule
from ocr.training.moving_average import MovingAverage
from ocr.training.trial_step import network_memory, step_memory

log = logging.getLogger(__name__)


def train(config: TrainConfig, run_dir: Path, callbacks: Sequence[Callback] = ()) -> dict[str, Any]:
    """Trains and gives back the run's summary.

    Writes config.yaml, audit_{train,val}.json, checkpoints/{best,last}.ckpt, metrics.csv, TensorBoard events, summary.json,
    predictions.json (of the last validation) and pictures/ below `run_dir`. `callbacks` are added to the run's own.

    Raises:
        OutOfMemory: RAM or GPU memory ran out; what was written until then is there.
    """
    last = run_dir / "checkpoints" / "last.ckpt"
    with ExplainShortages(partial(training_remedies, config, last)) as shortages:
        return _train(config, run_dir, [shortages, *callbacks])


def _train(config: TrainConfig, run_dir: Path, callbacks: Sequence[Callback]) -> dict[str, Any]:
    log.info("writing to %s", run_dir)
    started = time.perf_counter()
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    lightning.seed_everything(config.seed, verbose=False)
    if config.resume is not None and not Path(config.resume).is_file():
        raise FileNotFoundError(f"resume={config.resume}: no such checkpoint")
    device = resolve_device(config.device)
    precision = resolve_precision(config.trainer.precision, device)

    draw_if_synthetic(config)
    suited = config.model_copy(update={"pipeline": resolve_pipeline(config.pipeline, precision)})
    splits = {
        name: build_dataset(
            config.datasets.split(name), suited, training=name == "train", report_path=run_dir / f"audit_{name}.json"
        )
        for name in ("train", "val")
    }
    model = build_dbnet(config.model, config.targets.map_stride)
    module = DBNetModule(model, config, splits["val"].manifest)
    data = DBNetDataModule(
        splits["train"],
        splits["val"],
        config.dataloader,
        loader=config.engine,
        val_targets=config.trainer.val_loss,
        measure_network=partial(_measure_network, module, precision),  # no closures: strategy=ddp_spawn pickles this
        on_tight=partial(_warn_of_tight_memory, config),
    )
    summary = RunSummary(config, run_dir, device_name(device))
    watch = MemoryWatch(summary.summary)
    trainer = build_trainer(config, device, precision, run_dir, [watch, summary, *callbacks])
    log.info(
        "%s with %s, %.1f M parameters, %s, loader=%s, on %s",
        "DBNet++" if config.model.adaptive_fusion else "DBNet",
        config.model.backbone.name,
        sum(parameter.numel() for parameter in model.parameters()) / 1e6,
        precision,
        config.loader,
        device_name(device),
    )
    warnings.filterwarnings(
        "ignore", message="`ModelCheckpoint\\(monitor='val/hmean'\\)` could not find"
    )  # before it is known
    try:
        trainer.fit(module, datamodule=data, ckpt_path=config.resume, weights_only=True)
    except Exception:
        summary.write()
        raise
    finally:  # Lightning leaves this out where a run ends with an error
        module.teardown("fit")
        data.teardown("fit")

    if summary.summary["hmean"] is None:  # stopped before the first validation
        trainer.validate(module, datamodule=data, verbose=False)
        summary.write()
    if trainer.is_global_zero:
        write_predictions(run_dir / "predictions.json", splits["val"].manifest, module.evaluation.detections_original)
        result = summary.summary
        if result["hmean"] is not None:
            log.info(
                "best validation hmean %.4f (precision %.4f, recall %.4f) after epoch %d; %.0f s in all",
                *(result[name] for name in ("hmean", "precision", "recall")),
                result["best_epoch"] + 1,
                time.perf_counter() - started,
            )
        log.info("everything is in %s", run_dir)
    return json.loads(json.dumps(summary.summary))


def _measure_network(
    module: DBNetModule, precision: str, device: torch.device, num_ranks: int, batch_size: int, eval_batch_size: int
) -> tuple[NetworkMemory, StepMemory | None]:
    config = module.config
    is_averaged = config.trainer.ema_decay is not None
    network = network_memory(module.model, config.optimizer, num_ranks=num_ranks, is_averaged=is_averaged)
    if device.type != "cuda":
        return network, None
    return network, step_memory(module, precision, device, batch_size=batch_size, eval_batch_size=eval_batch_size)


def _warn_of_tight_memory(config: TrainConfig) -> None:
    log.warning(
        "the GPU has too little free memory for the network and DALI, even without caches. The run goes on, since this is a "
        "prediction.\n%s",
        remedy_lines(training_remedies(config, None, in_validation=False)),
    )


def build_trainer(
    config: TrainConfig, device: torch.device, precision: str, run_dir: Path, more_callbacks: Sequence[Callback]
) -> lightning.Trainer:
    """Lightning's trainer with this run's callbacks and loggers."""
    settings = config.trainer
    callbacks: list[Callback] = [
        BestCheckpoint(
            run_dir / "checkpoints",
            filename="best",
            monitor="val/hmean",
            mode="max",
            enable_version_counter=False,
            save_on_train_epoch_end=True,  # not within the epoch: a run resumed there would train nothing in it
        ),
        ModelCheckpoint(
            run_dir / "checkpoints", filename="last", enable_version_counter=False, save_on_train_epoch_end=True
        ),
        ValidateLastEpoch(),
        *more_callbacks,
        DetectionPictures(run_dir, config.logger.num_pictures),
    ]
    loggers = build_loggers(config.logger, run_dir, config.exp_name)
    if loggers:
        callbacks.append(LearningRateMonitor("step"))
    if settings.ema_decay is not None:
        callbacks.append(MovingAverage(settings.ema_decay))
    interactive = sys.stderr.isatty()
    if interactive:
        callbacks.append(ProgressBar())
    return lightning.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=settings.devices if device.type == "cuda" or settings.devices != "auto" else 1,
        strategy=settings.strategy,
        precision=precision,  # type: ignore[arg-type]
        max_epochs=settings.max_epochs,
        max_time=settings.max_time,
        limit_train_batches=settings.limit_train_batches,
        limit_val_batches=settings.limit_val_batches,
        check_val_every_n_epoch=settings.check_val_every_n_epoch,
        num_sanity_val_steps=settings.num_sanity_val_steps,
        accumulate_grad_batches=settings.accumulate_grad_batches,
        gradient_clip_val=settings.gradient_clip_val,
        benchmark=settings.benchmark,
        deterministic="warn" if settings.deterministic else None,
        log_every_n_steps=settings.log_every_n_steps,
        fast_dev_run=settings.fast_dev_run,
        use_distributed_sampler=False,  # the plan shards
        callbacks=callbacks,
        logger=loggers,
        enable_progress_bar=interactive,
        enable_model_summary=False,
    )


def build_loggers(config: LoggerConfig, run_dir: Path, exp_name: str) -> list[Logger]:
    """TensorBoard, metrics.csv and Weights & Biases, as enabled."""
    loggers: list[Logger] = []
    if config.tensorboard:
        loggers.append(TensorBoardLogger(run_dir, name="tensorboard", version=""))
    if config.csv:
        loggers.append(CSVLogger(run_dir, name="", version=""))
    if config.wandb.enabled:
        try:
            from lightning.pytorch.loggers import WandbLogger

            loggers.append(WandbLogger(name=exp_name, project=config.wandb.project, save_dir=run_dir))
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("logger.wandb.enabled=true needs the extra: uv sync --extra wandb") from error
    return loggers
