"""Compares an exported network with PyTorch on pictures: the largest difference of the maps, and hmean."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dali_pipelines.source import ImageBatch, PlannedBatch
from ocr.config import NOT_SET, DatasetsConfig, ExportConfig, TrainConfig
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.image_checks import IMAGE_EXTENSIONS
from ocr.datasets.schemas import DatasetConfig
from ocr.loaders.batch import Batch
from ocr.loaders.torch_workers import TorchLoader
from ocr.models.db_head import DBMaps
from ocr.splits import build_dataset
from ocr.synthetic.config import SyntheticConfig
from ocr.synthetic.data_set import draw_data_set
from ocr.training.evaluator import Evaluator
from ocr.training.scores import ValidationScores, scores_of_sets

log = logging.getLogger(__name__)

_CPU = torch.device("cpu")
_BATCH_SIZE = 2


@dataclass(frozen=True)
class Pictures:
    """Pictures to check or calibrate with, as validation prepares them. They are spread evenly over the data set, or sets."""

    dataset: ValidatedOCRDataset
    has_annotations: bool
    limit: int
    """Largest number of pictures to use."""

    @property
    def number(self) -> int:
        """Number of pictures used."""
        return min(len(self.dataset), self.limit)

    def batches(self, *, levels: bool = False) -> Iterator[ImageBatch]:
        """Yields batches of at most two pictures, (B, 3, H, W): normalised float32, or uint8 levels."""
        loader = TorchLoader(self.dataset, num_workers=0, device=_CPU, skip_failures=False, levels=levels)
        yield from loader.batches(_SpreadPlan(self.dataset, self.number))

    def graph_inputs(self, uint8_input: bool) -> Iterator[npt.NDArray[Any]]:
        """Yields batches as the exported graph takes them."""
        for batch in self.batches(levels=uint8_input):
            images = batch.images.permute(0, 2, 3, 1) if uint8_input else batch.images
            yield images.numpy()


class _SpreadPlan:
    """Plans batches of some images of a data set, from the first to the last at equal distances."""

    epoch = 0
    following = None

    def __init__(self, dataset: ValidatedOCRDataset, number: int) -> None:
        self._dataset = dataset
        self._indices = np.linspace(0, len(dataset) - 1, number).round().astype(np.int64)

    def __len__(self) -> int:
        return -(-len(self._indices) // _BATCH_SIZE)

    def batch(self, step: int) -> PlannedBatch:
        """Returns the samples of batch `step`."""
        return self._dataset.planned(self._indices[step * _BATCH_SIZE :][:_BATCH_SIZE].tolist())


@dataclass(frozen=True)
class Comparison:
    """Result of a check."""

    num_pictures: int
    largest_difference: float
    """Largest difference of the probability maps over all pixels of all pictures."""
    hmean_torch: float | None
    hmean_exported: float | None
    """Both at IoU 0.5; None without annotations."""
    hmean_of_sets: dict[str, tuple[float, float]]
    """The same two of each of several data sets, by its name."""


def choose_pictures(config: ExportConfig, settings: TrainConfig, folder: Path) -> Pictures:
    """Returns the pictures to check with: images=FOLDER, the data set of the command, the checkpoint's, or drawn receipts.

    Args:
        settings: the checkpoint's settings.
        folder: an existing folder for drawn receipts.
    """
    if config.images != NOT_SET:
        split = DatasetConfig(image_path=config.images, image_extensions=IMAGE_EXTENSIONS)
        log.info("checking on the pictures in %s", config.images)
        return Pictures(_data_set(split, settings), False, config.num_images)
    found = _split_of(config.datasets, settings, "val")
    if found is not None:
        log.info("checking on the validation set, %s", found.places)
        return Pictures(_data_set(found, settings), True, config.num_images)
    log.warning("the checkpoint's validation set is not here; checking on drawn receipts (images=FOLDER: on your own)")
    root = draw_data_set(SyntheticConfig(num_train=1, num_val=min(config.num_images, 16)), folder, num_workers=1)
    drawn = DatasetConfig(image_path=str(root / "images/val"), annotation_path=str(root / "jsons/val.json"))
    return Pictures(_data_set(drawn, settings), True, config.num_images)


def calibration_pictures(config: ExportConfig, settings: TrainConfig, checked: Pictures) -> Pictures:
    """Returns training pictures for int8; without a training set the pictures of the check."""
    found = _split_of(config.datasets, settings, "train")
    if found is None:
        log.warning("the checkpoint's training set is not here; calibrating on the pictures of the check")
        return checked
    log.info("calibrating on training pictures, %s", found.places)
    return Pictures(_data_set(found, settings), True, config.num_images)


def compare(model: nn.Module, exported: nn.Module, settings: TrainConfig, pictures: Pictures) -> Comparison:
    """Returns how an exported network differs from PyTorch's on pictures. Both see the same inputs."""
    manifest = pictures.dataset.manifest
    plain = settings.model_copy(update={"metric": "icdar"})
    evaluators = [Evaluator(network, plain, manifest, with_cleval=False) for network in (model, exported)]
    largest = 0.0
    try:
        for evaluator in evaluators:
            evaluator.start(_CPU, with_truth=pictures.has_annotations)
        with torch.inference_mode():
            for batch in pictures.batches():
                maps: list[DBMaps] = [
                    evaluator.evaluate(Batch(batch.images, batch.samples, None, pictures.dataset))
                    for evaluator in evaluators
                ]
                largest = max(largest, _difference(maps[0].prob_map, maps[1].prob_map))
        scores, others = (_hmeans(evaluator, pictures) for evaluator in evaluators)
    finally:
        for evaluator in evaluators:
            evaluator.close()
    of_sets = {name: (scores[name], others[name]) for name in scores if name}
    return Comparison(pictures.number, largest, scores.get(""), others.get(""), of_sets)


def _difference(first: Tensor, second: Tensor) -> float:
    """Returns the largest absolute difference; infinity where a value is NaN."""
    return float((first - second).abs().nan_to_num_(nan=torch.inf).max())


def _hmeans(evaluator: Evaluator, pictures: Pictures) -> dict[str, float]:
    """Returns hmean by the name of the data set, that of all pictures by an empty name; nothing without annotations."""
    results = evaluator.finish()
    if not pictures.has_annotations:
        return {}
    scores = ValidationScores("icdar", False, pictures.dataset.manifest.sets).compute(results)
    of_sets = {name: values["hmean"] for name, values in scores_of_sets(scores).items()}
    return {"": float(scores["val/hmean"]), **of_sets}


def _split_of(given: DatasetsConfig, settings: TrainConfig, name: str) -> DatasetConfig | None:
    """Returns a split of the command's data set, or of the checkpoint's, if its images and annotations are here."""
    for datasets in (given, settings.datasets):
        if datasets.has_split(name):
            split = datasets.split(name)
            sets = split.each_set().values()
            if all(one.annotation_path is not None and Path(one.image_path).is_dir() for one in sets):
                return split
    return None


def _data_set(split: DatasetConfig, settings: TrainConfig) -> ValidatedOCRDataset:
    """Returns the audited data set of a split, not augmented. It has loose files, even if the training read shards."""
    settings = settings.model_copy(update={"loader": "torch"})
    return build_dataset(split, settings, training=False, before_training=False)
