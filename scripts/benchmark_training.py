"""How fast the training loader is alone and with the network, and how far GPU decoding is from the CPU's.

    uv run scripts/benchmark_training.py --data FOLDER --json results.json

FOLDER is laid out for data=upstage. loader: batches with targets, thrown away. train-step: ResNet-18, mixed precision; its waiting
is the share of the time spent in the loader. The rows take turns. On a GPU the evaluation images are decoded by both backends too.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from dali_pipelines.config import PipelineConfig
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.loader import BatchLoader
from ocr.datasets.plan import SamplePlanner
from ocr.datasets.schemas import DatasetConfig
from ocr.device import resolve_device, resolve_precision
from ocr.environment import device_name, git_commit, package_versions
from ocr.losses.db_loss import DBLoss, LossConfig
from ocr.models.backbone import BackboneConfig
from ocr.models.dbnet import ModelConfig, build_dbnet
from ocr.training.optimizer import OptimizerConfig, build_optimizer

Row = dict[str, list[float]]


def main() -> None:
    arguments = _parse_arguments()
    device = resolve_device(arguments.device)
    split = DatasetConfig(
        image_path=str(arguments.data / "images/train"), annotation_path=str(arguments.data / "jsons/train.json")
    )
    dataset = ValidatedOCRDataset(
        split, SamplePlanner(PipelineConfig(image_size=arguments.size), training=True, seed=0)
    )
    loaders = {
        name: BatchLoader(
            dataset, loader=name, batch_size=arguments.batch_size, num_workers=arguments.workers, device=device
        )
        for name in ("dali", "torch")
    }
    step = _training_step(device)
    rows: dict[str, Row] = {}
    for round_ in range(arguments.rounds + 1):
        for name, loader in loaders.items():
            loader.set_epoch(round_)
            for row, action in ((f"{name}: loader", None), (f"{name}: train-step", step)):
                images_per_second, waiting = _run(loader, action, arguments.steps, device)
                if round_ > 0:  # the first round warms up
                    figures = rows.setdefault(row, {"images_per_second": [], "waiting": []})
                    figures["images_per_second"].append(images_per_second)
                    figures["waiting"].append(waiting)
    decode = decode_differences(split, arguments.size, device) if device.type == "cuda" else {}
    Console().print(_table(rows, decode, device_name(device)))
    if arguments.json:
        results = {
            "command": sys.argv,
            "device": device_name(device),
            "versions": package_versions(),
            "commit": git_commit(),
            "rows": rows,
            "decode_differences": decode,
        }
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with images/train and jsons/train.json")
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto")
    parser.add_argument("--size", type=int, default=640, help="side of the crop (default %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="(default %(default)s)")
    parser.add_argument("--steps", type=int, default=5, help="batches a round; an epoch at most (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="after one to warm up (default %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="of the torch loader (default %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all rounds and the machine to this file")
    return parser.parse_args()


def _training_step(device: torch.device) -> Callable[..., None]:
    """One optimizer step of a ResNet-18 DBNet."""
    model = build_dbnet(ModelConfig(backbone=BackboneConfig(weights=None)), 1)
    model = model.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    loss, optimizer = DBLoss(LossConfig()), build_optimizer(model, OptimizerConfig())
    half = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(resolve_precision("auto", device))

    def step(batch) -> None:  # type: ignore[no-untyped-def]
        images = batch.images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, half or torch.bfloat16, enabled=half is not None):
            maps = model(images)
        loss(maps, batch.targets).total.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _run(
    loader: BatchLoader, action: Callable[..., None] | None, num_steps: int, device: torch.device
) -> tuple[float, float]:
    """Images a second, and the share of the time spent waiting for the loader."""
    loader.reset_statistics()
    started = time.perf_counter()
    for batch, _ in zip(loader, range(num_steps), strict=False):
        if action is not None:
            action(batch)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - started
    return loader.num_images / seconds, loader.wait_seconds / seconds


def decode_differences(split: DatasetConfig, size: int, device: torch.device) -> dict[str, dict[str, float]]:
    """Mean and largest difference in levels between both backends on 16 images, as they are and saved again as 4:4:4."""
    differences = {}
    with tempfile.TemporaryDirectory() as folder:
        sources = sorted(Path(split.image_path).glob("*.jpg"))[:16]
        for sampling, subsampling in (("4:2:0", 2), ("4:4:4", 0)):
            target = Path(folder) / sampling.replace(":", "")
            target.mkdir()
            for source in sources:
                Image.open(source).convert("RGB").save(target / source.name, quality=90, subsampling=subsampling)
            on_cpu = _evaluation_images(target, size, torch.device("cpu"), fancy_upsampling=True)
            for fancy in (True, False):
                on_gpu = _evaluation_images(target, size, device, fancy_upsampling=fancy)
                levels = (on_cpu - on_gpu).abs() * torch.tensor(PipelineConfig().std)[:, None, None]
                differences[f"{sampling}, fancy upsampling {'on' if fancy else 'off'}"] = {
                    "mean": levels.mean().item(),
                    "max": levels.max().item(),
                }
    return differences


def _evaluation_images(folder: Path, size: int, device: torch.device, fancy_upsampling: bool) -> torch.Tensor:
    """The folder's images as DALI gives them on this device, on the CPU, float32."""
    config = PipelineConfig(image_size=size, output_dtype="float32", jpeg_fancy_upsampling=fancy_upsampling)
    dataset = ValidatedOCRDataset(DatasetConfig(image_path=str(folder)), SamplePlanner(config, training=False, seed=0))
    loader = BatchLoader(dataset, loader="dali", batch_size=4, num_workers=0, device=device)
    return torch.cat([batch.images.cpu() for batch in loader])


def _table(rows: dict[str, Row], decode: dict[str, dict[str, float]], device: str) -> Table:
    table = Table(title=f"Training input on {device}: median (min - max)")
    for column in ("row", "images/s", "waiting for data"):
        table.add_column(column)
    for name, figures in rows.items():
        speed, waiting = figures["images_per_second"], figures["waiting"]
        table.add_row(
            name,
            f"{median(speed):.1f} ({min(speed):.1f} - {max(speed):.1f})",
            f"{median(waiting):.0%} ({min(waiting):.0%} - {max(waiting):.0%})" if "train" in name else "",
        )
    for name, difference in decode.items():
        table.add_row(
            f"GPU - CPU decode, {name}", f"mean {difference['mean']:.3f} levels", f"max {difference['max']:.0f}"
        )
    return table


if __name__ == "__main__":
    main()
