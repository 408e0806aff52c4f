"""Prediction: a trained network on images without annotations."""

import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ocr.atomic_write import explained_write, refuse_unwritable
from ocr.command_line import is_given
from ocr.config import NOT_SET, PredictConfig
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.image_checks import IMAGE_EXTENSIONS
from ocr.datasets.image_list import find_images
from ocr.datasets.schemas import DatasetConfig
from ocr.errors import InputError
from ocr.inference.one_pass import (
    Progress,
    for_one_pass,
    header_of,
    page_detector,
    run_once,
    with_loader_of_this_machine,
    with_loose_files,
)
from ocr.postprocess.boxes import Detections
from ocr.prediction_lines import PredictionLines
from ocr.predictions import draw_picture, save_picture, write_entries
from ocr.restore import restore_for_inference
from ocr.splits import build_dataset, draw_if_synthetic
from ocr.training.module import DBNetModule
from ocr.training.result_lines import ResultLines
from ocr.training.run_lock import RunLock

log = logging.getLogger(__name__)


def predict(config: PredictConfig, run_dir: Path) -> Path:
    """Finds text in images. Returns the folder it writes predictions.json and the pictures to.

    predictions.jsonl gets a line for each image as it is done. A prediction that was interrupted in the same folder is continued.

    Raises:
        InputError: there is no such image, the output lies among the images, loader=webdataset, or another process writes to the
            output.
        OutOfMemory: RAM or GPU memory ran out; the message names a smaller batch size.
        SignalExit: SIGTERM (code 143) or Ctrl-C (130) ended the prediction.
    """
    split_config, names, output = _images_and_output(config, run_dir)
    log.info("writing to %s", output)
    key = "hydra.run.dir" if is_given("hydra.run.dir") and config.output == NOT_SET else "output"
    with Progress(output, key, is_named=config.output != NOT_SET or is_given(key)) as progress:
        settings, model = restore_for_inference(config)
        settings = with_loader_of_this_machine(settings, config.loader)
        settings = with_loose_files(settings)
        with RunLock(output, key):
            dataset = build_dataset(
                for_one_pass(split_config), settings, training=False, names=names, before_training=False
            )
            header = header_of(config, settings, dataset, drawn=config.draw)
            draw = partial(_draw, dataset, output / "pictures") if config.draw else None
            with PredictionLines(output, header, dataset.manifest.filenames) as file:
                lines = progress.lines = ResultLines(file, dataset.manifest, with_truth=False, draw=draw)
                pages = page_detector(config, settings, model)
                module = DBNetModule(model, settings, dataset.manifest, lines=lines, pages=pages)
                run_once(settings, dataset, module, lines, progress.signals)
                num_found = _NumTexts(lines.entries())
                write_entries(output / "predictions.json", num_found)
    log.info("%d texts found in %d images", num_found.num_texts, num_found.num_images)
    log.info("everything is in %s", output)
    return output


class _NumTexts:
    """Iterates over entries of predictions.json and counts them."""

    def __init__(self, entries: Iterator[tuple[str, dict[str, Any]]]) -> None:
        self.num_images = self.num_texts = 0
        self._entries = entries

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for name, entry in self._entries:
            self.num_images += 1
            self.num_texts += len(entry["words"])
            yield name, entry


def _draw(dataset: ValidatedOCRDataset, directory: Path, index: int, detections: Detections) -> None:
    """Saves the picture of an image's detections.

    Raises:
        StorageError: the picture cannot be written.
    """
    filename = dataset.manifest.filenames[index]
    picture = draw_picture(dataset.load_image(index).image_array, detections)
    with explained_write(directory / filename, "give the same command again, which continues"):
        save_picture(picture, directory, filename, dataset.config.image_extensions)


def _images_and_output(config: PredictConfig, run_dir: Path) -> tuple[DatasetConfig, list[str] | None, Path]:
    """Returns the data set to predict, its files (None: all images of its folder), and the folder to write to.

    Prediction reads the images of all formats in a folder, unless image_extensions is set.
    """
    if config.loader == "webdataset":
        raise InputError("predict.py finds text in image files; use loader=dali or torch")
    template = config.datasets.predict_dataset.config
    if template.image_extensions == DatasetConfig.model_fields["image_extensions"].default:
        template = template.model_copy(update={"image_extensions": IMAGE_EXTENSIONS})
    if config.images == NOT_SET:
        draw_if_synthetic(config)
    given = config.datasets.split("predict").image_path if config.images == NOT_SET else config.images
    given = (given,) if isinstance(given, str) else given
    output = run_dir if config.output == NOT_SET else Path(config.output)
    for entry in given:
        if output.resolve().is_relative_to(Path(entry).resolve()):
            raise InputError(
                f"output={output} lies in the folder of images, {entry}; the next run would read its own pictures"
            )
    refuse_unwritable(output, f"output={output}")
    folder, names = Path(given[0]), None
    if len(given) > 1 or not folder.is_dir():
        folder, names = find_images(given, template.image_extensions)
    own = next((name for name in names or () if (folder / name).is_relative_to(output.resolve() / "pictures")), None)
    if own is not None:
        raise InputError(f"output={output} holds {own}, one of the images to read; choose another output")
    return template.model_copy(update={"image_path": str(folder), "annotation_path": None}), names, output
