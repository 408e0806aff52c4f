"""Checks in seconds, without a network, that everything works on this machine: python -m ocr.self_test, see --help.

Draws a receipt, reads it with DALI and with PyTorch, makes its target maps, trains one step and finds the text in the maps. Ends
with "self-test passed" and exit code 0, or with the failed check and exit code 1. Writes to a temporary folder; compiled functions
are kept where numba keeps them.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch

from dali_pipelines.config import PipelineConfig
from ocr.config import Device, OptimizerConfig
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.plan import SamplePlanner
from ocr.datasets.schemas import DatasetConfig
from ocr.device import resolve_device
from ocr.environment import dali_version, device_name
from ocr.loaders.batch import Batch
from ocr.loaders.engines import Engine, has_dali
from ocr.loaders.loader import BatchLoader
from ocr.losses.config import LossConfig
from ocr.losses.db_loss import DBLoss
from ocr.metrics.icdar import TargetRegions, match_image
from ocr.models.config import BackboneConfig, ModelConfig
from ocr.models.dbnet import build_dbnet
from ocr.postprocess.boxes import detect
from ocr.postprocess.config import PostprocessConfig
from ocr.synthetic.config import SyntheticConfig
from ocr.synthetic.data_set import draw_file, file_name
from ocr.targets.agreement import compare_maps
from ocr.targets.reference import make_targets_reference
from ocr.targets.target_maps import TargetMaps
from ocr.training.optimizer import build_optimizer

LoaderChoice = Literal["auto", "dali", "torch"]
IMAGE_SIZE = 640
MEAN_LEVELS = {"cpu": 0.1, "cuda": 0.5}
"""Largest mean difference between the pixels of DALI and loader=torch, in levels of 255. A GPU's decoder rounds differently."""
MAP_SHARE = 0.01
"""Largest share of text pixels in the shrink map that may differ from the exact reference: pixels on the border do."""
MIN_RECALL = 0.9
"""Smallest share of the texts that post-processing must find in their own target map."""


class CheckFailed(RuntimeError):
    """A check failed; the message says what was found, what was expected and what to do."""


def check_gpu(device: Device, environment: Mapping[str, str], num_gpus: int) -> None:
    """Passes unless a GPU was requested and there is none.

    Args:
        device: auto requests a GPU where NVIDIA's container runtime was told to provide one.
        num_gpus: GPUs that PyTorch finds.

    Raises:
        CheckFailed: there is no GPU.
    """
    visible = environment.get("NVIDIA_VISIBLE_DEVICES", "")
    is_requested_by_variable = visible not in ("", "void", "none")
    if num_gpus or device == "cpu" or (device == "auto" and not is_requested_by_variable):
        return
    reason = "--device gpu" if device == "gpu" else f"NVIDIA_VISIBLE_DEVICES={visible}"
    raise CheckFailed(
        f"a GPU was requested ({reason}), but PyTorch finds none. Start the container with --gpus all; if you did, check that "
        "nvidia-smi works on the host and in the container, and that the driver is new enough (CUDA 13: 580 or newer). "
        "To run without a GPU: --device cpu, or NVIDIA_VISIBLE_DEVICES=void for the container"
    )


def drawn_receipt(folder: Path) -> ValidatedOCRDataset:
    """Draws one receipt into an empty folder and returns it as a data set."""
    config = SyntheticConfig(num_train=1, num_val=1, notice_share=0, blank_share=0, max_side=800)
    (folder / "images" / "train").mkdir(parents=True)
    entry = draw_file(config, folder, "train", 0)
    annotations = folder / "train.json"
    annotations.write_text(json.dumps({"images": {file_name("train", 0): entry}}))
    planner = SamplePlanner(PipelineConfig(image_size=IMAGE_SIZE, output_dtype="float32"), training=False, seed=0)
    split = DatasetConfig(image_path=str(folder / "images" / "train"), annotation_path=str(annotations))
    return ValidatedOCRDataset(split, planner)


def read_batch(dataset: ValidatedOCRDataset, loader: Literal["dali", "torch"], device: torch.device) -> Batch:
    """Returns the receipt as a batch of one with its targets, on the device."""
    engine = Engine(loader, device, skip_failures=False)
    with closing(BatchLoader(dataset, engine, batch_size=1, with_targets=True)) as batches:
        (batch,) = batches
    return batch


def check_pixels(dali: Batch, plain: Batch, mean_levels: float) -> str:
    """Compares the pixels of the two loaders and returns a line about them.

    Raises:
        CheckFailed: their mean difference exceeds `mean_levels`.
    """
    std = torch.tensor(dali.dataset.planner.config.std)[:, None, None]
    levels = (dali.images.float().cpu() - plain.images.float().cpu()).abs() * std
    mean, largest = levels.mean().item(), levels.max().item()
    if not mean <= mean_levels:
        raise CheckFailed(
            f"DALI's pixels differ from those of loader=torch by {mean:.3f} levels on average ({largest:.1f} at most); expected at "
            f"most {mean_levels}. The versions of DALI (nvidia-dali-*) and OpenCV may not be those of pyproject.toml"
        )
    return (
        f"{tuple(dali.images.shape)}, differs from loader=torch by {mean:.4f} levels on average, {largest:.1f} at most"
    )


def check_targets(batch: Batch) -> TargetMaps:
    """Compares the batch's target maps with the exact reference and returns them.

    Raises:
        CheckFailed: they differ too much, or there are none.
    """
    targets, config = batch.targets, batch.dataset.targets
    if targets is None:
        raise CheckFailed("the loader gave no target maps")
    size = (IMAGE_SIZE, IMAGE_SIZE)
    reference = make_targets_reference(batch.polygons_input, size, config)
    share = compare_maps(targets, reference, batch.polygons_input, size, config).shrink_map_share
    if not targets.shrink_map.any() or share > MAP_SHARE:
        raise CheckFailed(
            f"the shrink map has {int(targets.shrink_map.sum())} text pixels and differs from the reference in {share:.1%} of the "
            f"pixels at text; expected at most {MAP_SHARE:.0%}"
        )
    return targets


def train_step(batch: Batch, device: torch.device) -> str:
    """Trains a small DBNet on the batch for one step and returns a line with the losses before and after.

    Raises:
        CheckFailed: a loss is not finite, or the step did not change it.
    """
    model = build_dbnet(ModelConfig(backbone=BackboneConfig(weights=None), fpn_channels=16), map_stride=1).to(device)
    optimizer, loss = build_optimizer(model, OptimizerConfig()), DBLoss(LossConfig())
    if batch.targets is None:
        raise CheckFailed("the loader gave no target maps")
    losses = []
    for _ in range(2):
        total = loss(model(batch.images), batch.targets).total
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(total.item())
    if not np.isfinite(losses).all() or losses[0] == losses[1]:
        raise CheckFailed(
            f"the loss was {losses[0]}, and {losses[1]} after one step; expected two finite, different numbers"
        )
    return f"loss {losses[0]:.3f}, {losses[1]:.3f} after one step"


def check_postprocessing(batch: Batch, targets: TargetMaps) -> str:
    """Finds the texts in their own target map and returns a line with their number.

    Raises:
        CheckFailed: too few were found.
    """
    config = batch.dataset.targets
    found = detect(
        targets.shrink_map[0].float().cpu().numpy(),
        map_stride=config.map_stride,
        shrink_ratio=config.shrink_ratio,
        config=PostprocessConfig(),
    )
    truth = TargetRegions.from_polygons(batch.polygons_input.polygons_of(0), batch.polygons_input.ignore_of(0))
    (counts,) = match_image(found.polygons, truth, (0.5,))
    if not counts.num_targets or counts.matched / counts.num_targets < MIN_RECALL:
        raise CheckFailed(
            f"post-processing found {counts.matched} of {counts.num_targets} texts in their target map; expected {MIN_RECALL:.0%}"
        )
    return f"{counts.matched} of {counts.num_targets} texts found in their target map"


def run_checks(device_choice: Device, loader: LoaderChoice, folder: Path, *, beside_a_run: bool = False) -> None:
    """Runs all checks and prints a line for each.

    Args:
        loader: auto takes DALI where it is installed, and compares its pixels with those of PyTorch's loader.
        folder: empty folder for the drawn receipt.
        beside_a_run: leave time and memory of the GPU to a run: see whether it is there, and compute on the CPU.

    Raises:
        CheckFailed: the first failed check.
    """
    num_gpus = torch.cuda.device_count()
    _passed(
        "versions",
        f"Python {platform.python_version()}, torch {torch.__version__}, DALI {dali_version()}, "
        f"CUDA {torch.version.cuda or 'none'}, GPUs: {num_gpus}",
    )
    check_gpu(device_choice, os.environ, num_gpus)
    device = resolve_device("cpu" if beside_a_run else device_choice)
    _passed("device", device_name(device))
    dataset = drawn_receipt(folder)
    _passed("drawing", f"a receipt with {dataset.manifest.polygons.num_polygons} texts")
    batch = plain = read_batch(dataset, "torch", device)
    _passed("loader=torch", f"{tuple(plain.images.shape)}")
    if loader == "dali" or (loader == "auto" and has_dali()):
        batch = read_batch(dataset, "dali", device)
        _passed("loader=dali", check_pixels(batch, plain, MEAN_LEVELS[device.type]))
    else:
        _passed("loader=dali", "not checked" if loader == "torch" else "DALI is not installed; not checked")
    targets = check_targets(batch)
    _passed("targets", "equal to the exact reference, but for border pixels")
    _passed("training", train_step(batch, device))
    _passed("post-processing", check_postprocessing(batch, targets))


def _passed(name: str, text: str) -> None:
    print(f"{name}: {text}", flush=True)


def main(arguments: Sequence[str]) -> int:
    """Runs the self-test and returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m ocr.self_test", description="Checks that everything works on this machine."
    )
    parser.add_argument(
        "--device",
        choices=get_args(Device),
        default="auto",
        help="auto: a GPU if there is one",
    )
    parser.add_argument(
        "--loader",
        choices=get_args(LoaderChoice),
        default="auto",
        help="dali fails where DALI is missing; auto checks loader=torch only there",
    )
    parser.add_argument(
        "--beside-a-run",
        action="store_true",
        help="see whether a requested GPU is there, but compute on the CPU",
    )
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        # PyTorch creates this folder for every optimizer.
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(folder, "inductor")))
        try:
            run_checks(given.device, given.loader, Path(folder, "receipt"), beside_a_run=given.beside_a_run)
        except Exception as error:  # whatever a library raises here is a failed check
            print(f"self-test FAILED: {type(error).__name__}: {error}", file=sys.stderr)
            return 1
    print("self-test passed")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
