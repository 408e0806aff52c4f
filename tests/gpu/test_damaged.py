"""Files that are damaged after the audit cost their slot, are named, and change nothing else"""

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dali_pipelines.config import PipelineConfig
from ocr.datasets.base import ValidatedOCRDataset
from ocr.loaders.engines import Engine
from ocr.loaders.loader import BatchLoader

pytestmark = pytest.mark.gpu

MAX_MEAN_DIFFERENCE = 0.5
"""Mean difference of an image between two runs on a GPU, in levels; on a CPU the runs are equal."""
EPOCHS = (0, 1)
BATCH_SIZE = 4
BROKEN = {1: "truncated", 2: "empty", 5: "text", 8: "header only"}
"""Damage by the index of the image."""
REPLACED = 10
"""Index of the image that is replaced by a smaller or a larger one."""

Images = dict[int, torch.Tensor | None]


@pytest.fixture
def sound(drawn_set, open_split, device, tmp_path) -> tuple[ValidatedOCRDataset, list[Images]]:
    """The training split of a copy of the drawn set, and its images in both epochs; the files may be damaged from then on."""
    folder = shutil.copytree(drawn_set, tmp_path / "set")
    pipeline = PipelineConfig(image_size=128 if device.type == "cpu" else 320)
    dataset = open_split(folder, "train", pipeline, max_unreadable_epoch=1.0)
    return dataset, [_epoch(dataset, device, epoch)[0] for epoch in EPOCHS]


@pytest.mark.parametrize("side", [64, 2000])
def test_damaged_files_are_named_and_others_do_not_change(side, sound, device, record):
    if device.type == "cpu" and side > 64:
        pytest.skip("in training a CPU only checks that the planned region lies in the picture")
    dataset, whole = sound
    paths = [Path(path) for path in dataset.manifest.image_paths]
    broken = {**BROKEN, REPLACED: "another size"}
    for index, kind in BROKEN.items():
        _damage(paths[index], kind)
    Image.new("RGB", (side, side)).save(paths[REPLACED])
    limit = 0 if device.type == "cpu" else MAX_MEAN_DIFFERENCE
    record("damage", sorted(broken.values()))
    for epoch in EPOCHS:
        images, failures = _epoch(dataset, device, epoch)
        lost = [index for index, image in images.items() if image is None]
        named = sorted(Path(path).name for path in failures)
        record(f"epoch {epoch}: lost images", sorted(lost), equals=sorted(broken))
        record(f"epoch {epoch}: files named", named, equals=[paths[index].name for index in sorted(broken)])
        apart = _largest_difference(whole[epoch], images, broken) * max(dataset.planner.config.std)
        record(f"epoch {epoch}: largest difference of another image", apart, "levels", at_most=limit)


def _epoch(dataset: ValidatedOCRDataset, device: torch.device, epoch: int) -> tuple[Images, dict[str, str]]:
    """Returns the images of an epoch by index, on the host, None for one that failed; and the failures by path."""
    loader = BatchLoader(dataset, Engine("dali", device), BATCH_SIZE)
    loader.set_epoch(epoch)
    images: Images = {}
    for batch in loader:
        for sample, image in zip(batch.samples, batch.images.cpu(), strict=True):
            images[sample.index] = None if sample.has_failed else image.clone()
    loader.close()
    return images, dict(loader.failures)


def _largest_difference(whole: Images, images: Images, broken: Collection[int] | Mapping[int, str]) -> float:
    """Returns the largest mean difference of an image that is neither broken nor lost; NaN if any is NaN.

    The unit is that of normalised images.
    """
    differences = [
        float((images[index].float() - image.float()).abs().mean())
        for index, image in whole.items()
        if index not in broken and images[index] is not None
    ]
    return float(np.max(differences))


def _damage(path: Path, kind: str) -> None:
    content = path.read_bytes()
    damaged = {
        "truncated": content[: len(content) // 2],
        "empty": b"",
        "text": b"<html>not found</html>",
        "header only": content[:20],
    }
    path.write_bytes(damaged[kind])
