"""The settings of a run and its first training samples, on TensorBoard and Weights & Biases."""

import logging
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only

from ocr.config import TrainConfig
from ocr.file_names import shown
from ocr.loaders.batch import Batch
from ocr.report.samples import PANELS, sample_strips
from ocr.training.boards import boards_of, show_pictures

log = logging.getLogger(__name__)


class BoardLog(Callback):
    """Logs the settings at the start, and the first training samples of the run with their four target maps.

    A run that resumes shows no samples again. Samples that cannot be drawn are a warning in the log; the run goes on.

    Args:
        config: configuration of the run.
        num_samples: number of samples to show.
    """

    def __init__(self, config: TrainConfig, num_samples: int) -> None:
        self._config, self._num_samples = config, num_samples
        self._is_done = num_samples == 0

    @rank_zero_only
    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        for board in boards_of(trainer):
            board.log_hyperparams(self._config.model_dump(mode="json"))

    @rank_zero_only
    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Batch, *_: Any
    ) -> None:
        if self._is_done:
            return
        self._is_done, boards = True, boards_of(trainer)
        if not boards or trainer.global_step:
            return
        try:
            config, names = self._config, batch.dataset.manifest.filenames
            strips = sample_strips(batch, config.pipeline, config.targets, self._num_samples)
            captions = [f"{shown(names[index])}: {', '.join(PANELS)}" for index in batch.samples.indices.tolist()]
            show_pictures(boards, "train/sample", strips, captions[: len(strips)], trainer.global_step)
        except Exception as error:  # a picture is no reason to end a run
            log.warning("no pictures of training samples: %s", error)
