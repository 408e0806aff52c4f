"""Lightning's trainer, with the callbacks and loggers of a run."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import (
    AdvancedProfiler,
    PassThroughProfiler,
    Profiler,
    PyTorchProfiler,
    SimpleProfiler,
)
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from ocr.atomic_write import write_durably
from ocr.command_line import silence_libraries
from ocr.config import LoggerConfig, TrainConfig, TrainerConfig
from ocr.errors import InputError
from ocr.training.boards import WANDB_ID_NAME, wandb_arguments
from ocr.training.callbacks.checkpoints import BestCheckpoint
from ocr.training.callbacks.early_stopping import StopWithoutProgress
from ocr.training.callbacks.finite_losses import FiniteLosses
from ocr.training.callbacks.last_epoch import ValidateLastEpoch
from ocr.training.callbacks.learning_rates import LearningRates
from ocr.training.callbacks.losses import LossLog
from ocr.training.callbacks.moving_average import MovingAverage
from ocr.training.callbacks.progress_bar import ProgressBar
from ocr.training.callbacks.progress_lines import ProgressLines
from ocr.training.callbacks.rank_progress import RankProgress
from ocr.training.checkpoint_files import CheckpointFiles
from ocr.training.interruption import leave_checkpoints_alone, leave_signals_alone
from ocr.training.metrics_file import MetricsFile
from ocr.training.ranks import Ranks, is_first_rank
from ocr.training.tensorboard import ScalarEvents

PASSED_ON = (
    "accumulate_grad_batches",
    "benchmark",
    "check_val_every_n_epoch",
    "fast_dev_run",
    "gradient_clip_val",
    "limit_train_batches",
    "limit_val_batches",
    "log_every_n_steps",
    "max_epochs",
    "num_sanity_val_steps",
)
"""Keys of the section `trainer` that Lightning's Trainer takes as they are."""


def build_trainer(
    config: TrainConfig,
    ranks: Ranks,
    precision: str,
    run_dir: Path,
    files: CheckpointFiles,
    callbacks: Sequence[Callback],
    first_step: int = 0,
) -> lightning.Trainer:
    """Returns the trainer of a run, with `callbacks` among those that every run has.

    Args:
        ranks: of this run; they have met.
        files: writes the checkpoints.
        first_step: step at which a run continues in its own folder; 0: a run in a new folder.

    Raises:
        InputError: Lightning refuses a setting of the section `trainer`, or this machine lacks the devices.
    """
    silence_libraries()  # a Python program that trains has not done so
    settings = config.trainer
    loggers = build_loggers(config.logger, run_dir, config.exp_name, first_step)
    callbacks = [*callbacks, RankProgress(ranks.note_progress)]
    with _refusals_in_words(settings):
        trainer = lightning.Trainer(
            **{name: getattr(settings, name) for name in PASSED_ON},
            **ranks.lightning_arguments(),
            precision=precision,  # type: ignore[arg-type]  # one of Lightning's literals
            deterministic="warn" if settings.deterministic else None,
            use_distributed_sampler=False,  # the epoch plan shards
            default_root_dir=run_dir,
            plugins=[files, ranks.environment()],
            profiler=_build_profiler(settings, run_dir),
            callbacks=_run_callbacks(config, run_dir, callbacks, has_loggers=bool(loggers)),
            logger=loggers,
            enable_progress_bar=sys.stderr.isatty(),
            enable_model_summary=False,
        )
    leave_signals_alone(trainer)
    leave_checkpoints_alone(trainer)
    return trainer


def _run_callbacks(
    config: TrainConfig, run_dir: Path, callbacks: Sequence[Callback], *, has_loggers: bool
) -> list[Callback]:
    """Returns the callbacks of every run, with `callbacks` among them. Their order is that of their calls."""
    settings, stopping = config.trainer, config.trainer.early_stopping
    finite_losses = FiniteLosses(run_dir / "checkpoints")
    losses = LossLog(settings.log_every_n_steps, finite_losses.check)
    return [
        BestCheckpoint(run_dir / "checkpoints", None if config.resume is None else Path(config.resume)),
        ValidateLastEpoch(),
        *([] if stopping.patience is None else [StopWithoutProgress(stopping.patience, stopping.min_delta)]),
        losses,  # before the callbacks that read its means at the end of an epoch
        finite_losses,
        *callbacks,
        *([LearningRates(settings.log_every_n_steps)] if has_loggers else []),
        *([MovingAverage(settings.ema_decay)] if settings.ema_decay is not None else []),
        ProgressBar(losses) if sys.stderr.isatty() else ProgressLines(),
    ]


class _LeanProfiler(PassThroughProfiler):
    """Measures nothing: one shared empty context, where Lightning's own default starts a generator for each hook of each callback.

    A training step of this project opens about 66 of them.
    """

    _nothing: AbstractContextManager[Any] = nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager[Any]:  # type: ignore[override]
        return self._nothing


def _build_profiler(settings: TrainerConfig, run_dir: Path) -> Profiler:
    """Returns Lightning's profiler, which writes into the folder `profile` of the run, or one that measures nothing."""
    if settings.profiler is None:
        return _LeanProfiler()
    folder = run_dir / "profile"
    folder.mkdir(parents=True, exist_ok=True)
    profilers = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}
    return profilers[settings.profiler](dirpath=folder, filename=settings.profiler)


@contextmanager
def _refusals_in_words(settings: TrainerConfig) -> Iterator[None]:
    """Turns Lightning's errors about its arguments into an InputError. They have no common class, and some are ValueErrors."""
    try:
        yield
    except (MisconfigurationException, ValueError, TypeError) as error:
        given = ", ".join(f"trainer.{name}={getattr(settings, name)}" for name in ("devices", "strategy", "precision"))
        reason = " ".join(str(error).split())
        raise InputError(f"found {given}: Lightning refuses one of them: {reason[:400]}; correct it") from error


def build_loggers(config: LoggerConfig, run_dir: Path, exp_name: str, first_step: int = 0) -> list[Logger]:
    """Returns the enabled ones of TensorBoard, metrics.csv and Weights & Biases.

    Raises:
        InputError: wandb is enabled but not installed, or refuses to begin the run.
    """
    loggers: list[Logger] = []
    if config.tensorboard:
        loggers.append(ScalarEvents(run_dir, name="tensorboard", version="", purge_step=first_step or None))
    if config.csv:
        loggers.append(MetricsFile(run_dir / "metrics.csv", first_step))
    if config.wandb.enabled:
        loggers.append(_build_wandb_logger(wandb_arguments(config.wandb, run_dir, exp_name, first_step), run_dir))
    return loggers


def _build_wandb_logger(arguments: dict[str, Any], run_dir: Path) -> Logger:
    """Returns the logger of Weights & Biases; on the first rank its run has begun."""
    try:
        import wandb
        from lightning.pytorch.loggers import WandbLogger
        from wandb.errors import Error

        logger = WandbLogger(**arguments)
    except ModuleNotFoundError as error:
        raise InputError("logger.wandb.enabled=true needs the extra: uv sync --extra wandb") from error
    logger._wandb_init.pop("anonymous", None)  # Lightning always gives it, and wandb warns that it has no effect
    if is_first_rank():
        wandb.finish()  # the run of the job before this one in a multirun, which Lightning would go on with
        try:
            _ = logger.experiment  # begins the run
        except Error as error:
            raise InputError(
                f"logger.wandb.enabled=true: {error} Or set WANDB_API_KEY, or logger.wandb.offline=true, which keeps the run in "
                "its folder"
            ) from error
        write_durably(run_dir / WANDB_ID_NAME, f"{arguments['id']}\n".encode())
    return logger
