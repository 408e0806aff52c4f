"""One pass of a network over images, which continues where an interrupted one ended: shared by evaluation and prediction."""

import hashlib
import json
import logging
import signal
import sys
from pathlib import Path
from types import TracebackType

import lightning
from lightning.pytorch.callbacks import Callback
from torch import nn

from ocr.checkpoint import file_sha256
from ocr.command_line import silence_libraries
from ocr.config import InferenceConfig, LoaderName, TrainConfig
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.schemas import DatasetConfig
from ocr.device import resolve_device
from ocr.errors import SignalExit
from ocr.given_files import weights_path
from ocr.loaders.engines import check_dali, has_dali
from ocr.memory.out_of_memory import ExplainOutOfMemory
from ocr.memory.remedies import inference_remedies
from ocr.pages.detector import PageDetector
from ocr.placement import Placement
from ocr.restore import what_results_depend_on
from ocr.training.callbacks.between_batches import StopBetweenBatches
from ocr.training.callbacks.memory import FollowForOutOfMemory
from ocr.training.callbacks.progress_bar import InferenceBar
from ocr.training.callbacks.progress_lines import ProgressLines
from ocr.training.children import kill_children
from ocr.training.datamodule import DBNetDataModule
from ocr.training.devices import RunEnvironment
from ocr.training.interruption import RunStopped, StopSignals, leave_checkpoints_alone
from ocr.training.module import DBNetModule
from ocr.training.rendered_forward import RenderedForward, build_page_detector
from ocr.training.result_lines import ResultLines
from ocr.training.resume import data_fingerprint

log = logging.getLogger(__name__)


class Progress:
    """Context manager that ends a command after a signal with a line that says how many images are done and what continues it.

    Args:
        folder: where the command writes.
        key: the setting that chooses the folder.
        is_named: the user named the folder, so the same command writes there again.

    Raises:
        SignalExit: a signal came.
    """

    def __init__(self, folder: Path, key: str, *, is_named: bool) -> None:
        self.signals = StopSignals("ending after this batch; what is done is kept")
        self.lines: ResultLines | None = None
        """The results; None: not opened yet."""
        self._folder, self._key, self._is_named = folder, key, is_named

    def __enter__(self) -> "Progress":
        self.signals.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.signals.__exit__(kind, error, traceback)
        if not isinstance(error, RunStopped):
            return
        kill_children()
        name, again = signal.Signals(error.signum).name, f"{self._key}={self._folder}"
        how = "the same command" if self._is_named else f"the same command with {again}"
        if self.lines is None:
            log.warning("%s ended the run before it came to the images; %s starts it again", name, how)
        else:
            done, path = self.lines.num_done, self.lines.lines.path
            log.warning(
                "%s ended the run: %d of %d images are done, in %s; %s continues",
                name,
                done,
                self.lines.num_images,
                path,
                how,
            )
        raise SignalExit(128 + error.signum) from None


def page_detector(config: InferenceConfig, settings: TrainConfig, model: nn.Module) -> PageDetector | None:
    """Returns what looks closer at pages; None: the command has neither `tile` nor `rotations`."""
    device = resolve_device(settings.device)
    return build_page_detector(config, settings, RenderedForward(model, settings, device))


def header_of(
    config: InferenceConfig, settings: TrainConfig, dataset: ValidatedOCRDataset, **command: bool
) -> dict[str, str]:
    """Returns digests of what the results depend on: the checkpoint, the images with their annotations, and the settings."""
    images = hashlib.sha256(data_fingerprint(dataset.manifest)["sha256"].encode())
    for index in range(len(dataset.manifest)):
        # Size and mtime: a copy of a folder has other inodes. Shards have no numbers here; their index is part of the manifest.
        state = (dataset.manifest.images.signature(index) or ())[1:3]
        images.update(repr(state).encode())
    split = dataset.config
    described = what_results_depend_on(settings) | {
        "device": resolve_device(settings.device).type,
        "image_loading": split.image_loading_config.model_dump(mode="json"),
        "cache": split.cache_config.model_dump(
            mode="json", include={"dtype", "cache_transformed_tensors", "directory"}
        ),
        **command,
    }
    if config.tile != "none" or config.rotations != "none":  # without them, earlier lines stay valid
        described |= {"tile": config.tile, "rotations": config.rotations}
    text = json.dumps(described, sort_keys=True, default=str)
    return {
        "checkpoint": file_sha256(weights_path(config.checkpoint)),
        "images": images.hexdigest(),
        "settings": hashlib.sha256(text.encode()).hexdigest(),
    }


def for_one_pass(config: DatasetConfig) -> DatasetConfig:
    """Returns the configuration without caches in memory, which pay off only from the second pass on. The disk tier stays.

    Inputs are rounded as in the run's validation, so the scores are the same.
    """
    cache = config.cache_config.model_copy(update={"device_budget": 0, "ram_budget": 0})
    return config.model_copy(update={"preload_images": False, "prenormalize_images": False, "cache_config": cache})


def with_loader_of_this_machine(settings: TrainConfig, given: LoaderName | None) -> TrainConfig:
    """Returns the settings with PyTorch's loader in place of DALI's if DALI is missing and the user named no loader.

    Raises:
        InputError: the user named a loader that needs DALI.
    """
    if settings.engine != "dali" or has_dali():
        return settings
    if given is not None:
        check_dali(given)
    log.info("NVIDIA DALI is not installed: PyTorch workers read the images (loader=torch)")
    if settings.loader == "dali":
        return settings.model_copy(update={"loader": "torch"})
    reader = settings.dataloader.model_copy(update={"shard_reader": "webdataset"})
    return settings.model_copy(update={"dataloader": reader})


def with_loose_files(settings: TrainConfig) -> TrainConfig:
    """Returns the settings with the same engine but loose image files, even if the training read shards."""
    return settings.model_copy(update={"loader": settings.engine})


def run_once(
    settings: TrainConfig, dataset: ValidatedOCRDataset, module: DBNetModule, lines: ResultLines, signals: StopSignals
) -> None:
    """Runs the network over the images that have no line yet, and writes their lines.

    Batches are those of a run without interruption, so the results are the same bit for bit. A batch is run again as a whole if
    some of its images have no line.

    Raises:
        RunStopped: a signal came. The results until then are written.
    """
    if lines.num_done == lines.num_images:
        log.info("all images are done; delete %s to run them again", lines.lines.path)
        return
    batch_size = settings.dataloader.eval_batch_size
    first_batch = lines.num_done // batch_size
    remedies = inference_remedies(batch_size, settings.pipeline.image_size)
    # Target maps are made only so that the disk cache has the entries of a training run.
    val_targets = settings.trainer.val_loss and dataset.config.cache_config.directory is not None
    data = DBNetDataModule(
        None,
        dataset,
        settings.dataloader,
        loader=settings.engine,
        val_targets=val_targets,
        num_evaluated=first_batch * batch_size,
    )
    lines.failures = lambda: data.evaluation_failures
    with ExplainOutOfMemory(lambda in_validation: remedies) as explain:
        name = "evaluation" if lines.with_truth else "prediction"
        progress = (
            InferenceBar(name, first_batch)
            if sys.stderr.isatty()
            else ProgressLines(inference=name, first_batch=first_batch)
        )
        trainer = _build_trainer(settings, [FollowForOutOfMemory(explain), StopBetweenBatches(signals), progress])
        signals.defer()
        try:
            trainer.predict(module, datamodule=data, return_predictions=False)
            lines.finish()
        finally:  # Lightning skips the teardown when a run ends with an error
            data.teardown("predict")
    signals.stop_deferring()


def _build_trainer(settings: TrainConfig, callbacks: list[Callback]) -> lightning.Trainer:
    silence_libraries()  # a Python program that calls this module has not done so
    device = resolve_device(settings.device)
    trainer = lightning.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1 if device.index is None else [device.index],
        plugins=[RunEnvironment(Placement())],  # one process, whatever torchrun and srun say
        precision=settings.trainer.precision,  # type: ignore[arg-type]
        logger=False,
        callbacks=callbacks,
        enable_progress_bar=sys.stderr.isatty(),
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    leave_checkpoints_alone(trainer)
    return trainer
