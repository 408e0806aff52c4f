"""Pictures of detections."""

from pathlib import Path

import lightning
import numpy as np
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from ocr.predictions import draw_picture, save_picture
from ocr.training.trainer_parts import dbnet_module, val_loaders


class DetectionPictures(Callback):
    """Draws the detections in the first validation images to pictures/ and TensorBoard, after each validation."""

    def __init__(self, run_dir: Path, num_pictures: int) -> None:
        self.directory = run_dir / "pictures"
        self.num_pictures = num_pictures

    @rank_zero_only
    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        dataset = val_loaders(trainer)[0].dataset
        detections = dbnet_module(pl_module).evaluation.detections_original
        for index in sorted(detections)[: self.num_pictures]:
            pixels = dataset.load_image(index).image_array
            truth = dataset.manifest.polygons
            picture = draw_picture(pixels, detections[index], truth.polygons_of(index), truth.ignore_of(index))
            name = dataset.manifest.filenames[index]
            save_picture(picture, self.directory, name, dataset.config.image_extensions)
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_image(
                        f"val/{name}", np.asarray(picture), trainer.global_step, dataformats="HWC"
                    )
