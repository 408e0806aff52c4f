"""Pictures of detections, drawn beside the training."""

import logging
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import lightning
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from ocr.datasets.base import ValidatedOCRDataset
from ocr.file_names import shown
from ocr.postprocess.boxes import Detections
from ocr.predictions import save_picture
from ocr.report.marks import draw_reviewed, marks_of, reviewed
from ocr.report.reviewed import rank
from ocr.training.boards import boards_of, show_pictures
from ocr.training.evaluation import IOU_THRESHOLDS
from ocr.training.trainer_parts import dbnet_module, val_loaders

log = logging.getLogger(__name__)

LONGEST_SIDE = 1600
"""Pixels. Larger images are drawn smaller: PNGs of 12 megapixels for TensorBoard take seconds each."""


class Drawn(NamedTuple):
    """The picture of an image."""

    path: Path
    """File that it is saved to."""
    picture: Image.Image
    caption: str


class DetectionPictures(Callback):
    """Draws the worst validation images with their hits and errors to pictures/, TensorBoard and W&B, after each validation.

    One thread draws while the training goes on. The next validation, and the end of the run, wait for it. A picture that cannot be
    drawn is a warning in the log; the run goes on. pictures/ holds those of the last validation.

    Args:
        summary: receives `pictures_seconds`, the time that the thread has drawn so far; None: kept nowhere.
    """

    def __init__(self, run_dir: Path, num_pictures: int, summary: dict[str, Any] | None = None) -> None:
        self.directory = run_dir / "pictures"
        self.num_pictures = num_pictures
        self._summary = {} if summary is None else summary
        self._thread: ThreadPoolExecutor | None = None
        self._drawing: Future[float] | None = None
        self._files: set[Path] = set()
        """Pictures of the last validation."""

    @rank_zero_only
    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.wait()
        dataset = val_loaders(trainer)[0].dataset
        evaluation = dbnet_module(pl_module).evaluation
        counts = evaluation.counts
        worst = sorted(counts, key=lambda index: rank(index, counts[index]))[: self.num_pictures]
        if not worst:
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pictures")
        found = {index: evaluation.detections_original[index] for index in worst}
        self._drawing = self._thread.submit(self._draw_all, dataset, found, boards_of(trainer), trainer.global_step)
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
        self, dataset: ValidatedOCRDataset, detections: dict[int, Detections], boards: list[Logger], step: int
    ) -> float:
        """Returns the seconds it took."""
        started = time.perf_counter()
        drawn = list(draw_all(dataset, detections, self.directory))
        files = {one.path for one in drawn}
        try:
            for path in self._files - files:
                path.unlink(missing_ok=True)
            show_pictures(boards, "val/worst", [one.picture for one in drawn], [one.caption for one in drawn], step)
        except Exception as error:  # a full disk, a board that cannot be reached: no reason to end a run
            log.warning("the pictures of the worst images are not shown: %s", error)
        self._files = files
        return time.perf_counter() - started


def draw_all(dataset: ValidatedOCRDataset, detections: Mapping[int, Detections], directory: Path) -> Iterator[Drawn]:
    """Draws images with what was found and missed in them. A picture that cannot be drawn is a warning in the log.

    Args:
        detections: by position in the manifest, in pixels of the upright image.
        directory: folder for the pictures.
    """
    polygons = dataset.manifest.polygons
    for index, found in detections.items():
        name = dataset.manifest.filenames[index]
        try:
            pixels = dataset.load_image(index).image_array
            truth = polygons.polygons_of(index)
            hmean, review = reviewed(found, truth, polygons.ignore_of(index), IOU_THRESHOLDS)
            caption = f"{shown(name)}: hmean {hmean:.2f}"
            picture = draw_reviewed(pixels, list(marks_of(review, found, truth)), caption, LONGEST_SIDE)
            path = save_picture(picture, directory, name, dataset.config.image_extensions)
        except Exception as error:  # a file that vanished, a full disk: a picture is no reason to end a run
            log.warning("no picture of %s: %s", name, error)
            continue
        yield Drawn(path, picture, caption)
