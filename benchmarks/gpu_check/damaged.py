"""Files that break after the audit: each costs its slot and is named, and nothing else changes."""

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from PIL import Image

from benchmarks.gpu_check.figures import Figures, Keep
from benchmarks.gpu_check.images import dataset_of, device_of, drawn
from benchmarks.gpu_check.settings import CheckSettings
from dali_pipelines.config import PipelineConfig
from ocr.datasets.base import ValidatedOCRDataset
from ocr.loaders.engines import Engine
from ocr.loaders.loader import BatchLoader

EPOCHS = 2
BATCH_SIZE = 4


def measure(settings: CheckSettings, keep: Keep) -> None:
    device, folder = device_of(settings), Path(settings.output) / "data" / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(drawn(settings), folder)
    pipeline = PipelineConfig(image_size=128 if settings.cpu else 320)
    dataset = dataset_of(folder, "train", pipeline, training=True)
    whole = [_epoch(dataset, device, epoch)[0] for epoch in range(EPOCHS)]
    paths = [Path(path) for path in dataset.manifest.image_paths]
    broken = dict(zip((1, 2, 5, 8), ("truncated", "empty", "text", "header only"), strict=True))
    for index, damage in broken.items():
        _damage(paths[index], damage)
    if device.type == "cpu":  # on a GPU sizes are not looked at: below
        broken[10] = "another size"
        Image.new("RGB", (64, 64)).save(paths[10])
    figures: Figures = {"damages": sorted(broken.values()), "images": len(paths), "epochs": []}
    for epoch in range(EPOCHS):
        images, failures = _epoch(dataset, device, epoch)
        figures["epochs"].append(
            {"epoch": epoch}
            | compared(whole[epoch], images, broken, max(pipeline.std))
            | {
                "named": sorted(Path(path).name for path in failures),
                "expected": [paths[i].name for i in sorted(broken)],
            }
        )
        keep(figures)
    if device.type == "cuda":
        for name, side in (("larger", 2000), ("smaller", 64)):  # the second may end the process: it comes last
            figures["exchanged"] = name
            keep(figures)
            Image.new("RGB", (side, side)).save(paths[10])
            images, _ = _epoch(dataset, device, 0)
            figures[f"exchanged_{name}"] = compared(whole[0], images, {*broken, 10}, max(pipeline.std))
            keep(figures)


def compared(
    whole: Mapping[int, torch.Tensor | None],
    found: Mapping[int, torch.Tensor | None],
    broken: Collection[int] | Mapping[int, str],
    std: float,
) -> Figures:
    """How many slots failed, and how far the other images are from those of sound files, in levels."""
    others = {index: image for index, image in whole.items() if index not in broken}
    lost = [index for index in others if found.get(index) is None]
    differences = [
        float((other.float() - image.float()).abs().mean()) * std
        for index, image in others.items()
        if image is not None and (other := found.get(index)) is not None
    ]
    return {
        "failed": sorted(index for index, image in found.items() if image is None),
        "lost": lost,
        "others": len(others),
        "most_mean_levels": torch.tensor(differences).max().item() if differences else None,  # NaN where one is
    }


def _epoch(
    dataset: ValidatedOCRDataset, device: torch.device, epoch: int
) -> tuple[dict[int, torch.Tensor | None], dict[str, str]]:
    """Each image of an epoch by its index, on the host, None where it failed; and the files that failed."""
    loader = BatchLoader(dataset, Engine("dali", device), BATCH_SIZE)
    loader.set_epoch(epoch)
    images: dict[int, torch.Tensor | None] = {}
    for batch in loader:
        for sample, image in zip(batch.samples, batch.images.cpu(), strict=True):
            images[sample.index] = None if sample.has_failed else image.clone()
    loader.close()
    return images, dict(loader.failures)


def _damage(path: Path, kind: str) -> None:
    content = path.read_bytes()
    path.write_bytes(
        {
            "truncated": content[: len(content) // 2],
            "empty": b"",
            "text": b"<html>not found</html>",
            "header only": content[:20],
        }[kind]
    )
