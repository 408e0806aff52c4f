"""Pictures of detections, drawn beside the training."""

import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lightning
import numpy as np
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only

from ocr.datasets.base import ValidatedOCRDataset
from ocr.postprocess.boxes import Detections
from ocr.predictions import draw_picture, save_picture
from ocr.training.trainer_parts import dbnet_module, val_loaders

log = logging.getLogger(__name__)

LONGEST_SIDE = 1600
"""Pixels. Larger images are drawn smaller: PNGs of 12 megapixels for TensorBoard take seconds each."""


class DetectionPictures(Callback):
    """Draws the detections in the first validation images to pictures/ and TensorBoard, after each validation.

    One thread draws while the training goes on. The next validation, and the end of the run, wait for it. A picture that cannot be
    drawn is a warning in the log; the run goes on.

    Args:
        summary: receives `pictures_seconds`, the time that the thread has drawn so far; None: kept nowhere.
    """

    def __init__(self, run_dir: Path, num_pictures: int, summary: dict[str, Any] | None = None) -> None:
        self.directory = run_dir / "pictures"
        self.num_pictures = num_pictures
        self._summary = {} if summary is None else summary
        self._thread: ThreadPoolExecutor | None = None
        self._drawing: Future[float] | None = None

    @rank_zero_only
    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.wait()
        dataset = val_loaders(trainer)[0].dataset
        found = dbnet_module(pl_module).evaluation.detections_original
        first = {index: found[index] for index in sorted(found)[: self.num_pictures]}
        boards = [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        if not first:
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pictures")
        self._drawing = self._thread.submit(self._draw_all, dataset, first, boards, trainer.global_step)
        if trainer.state.fn != TrainerFn.FITTING:
            self.close()

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.close()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        self.close()

    def wait(self) -> None:
        """Waits until the pictures begun are drawn."""
        if self._drawing is not None:
            seconds = self._summary.get("pictures_seconds", 0.0) + self._drawing.result()
            self._summary["pictures_seconds"], self._drawing = seconds, None

    def close(self) -> None:
        """Waits for the pictures begun and ends the thread."""
        self.wait()
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None

    def _draw_all(
        self, dataset: ValidatedOCRDataset, detections: dict[int, Detections], boards: list[Any], step: int
    ) -> float:
        """Returns the seconds it took."""
        started = time.perf_counter()
        draw_all(dataset, detections, self.directory, boards, step)
        return time.perf_counter() - started


def draw_all(
    dataset: ValidatedOCRDataset,
    detections: Mapping[int, Detections],
    directory: Path,
    boards: Sequence[Any] = (),
    step: int = 0,
) -> None:
    """Draws detections and annotations of some images. A picture that cannot be drawn is a warning in the log.

    Args:
        detections: by position in the manifest, in pixels of the upright image.
        directory: folder for the pictures.
        boards: TensorBoard writers that get the pictures too.
        step: their step.
    """
    truth = dataset.manifest.polygons
    for index, found in detections.items():
        name = dataset.manifest.filenames[index]
        try:
            pixels = dataset.load_image(index).image_array
            polygons, ignore = truth.polygons_of(index), truth.ignore_of(index)
            picture = draw_picture(pixels, found, polygons, ignore, longest_side=LONGEST_SIDE)
            save_picture(picture, directory, name, dataset.config.image_extensions)
            for board in boards:
                board.add_image(f"val/{name}", np.asarray(picture), step, dataformats="HWC")
        except Exception as error:  # a file that vanished, a full disk: a picture is no reason to end a run
            log.warning("no picture of %s: %s", name, error)
