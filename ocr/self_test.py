"""Whether everything works on this machine, in seconds and without a network: python -m ocr.self_test [--device auto|cpu|gpu]

Draws one receipt, reads it with DALI, makes its targets, trains one step and finds the text again. Ends with "self-test passed" and
exit code 0, or with the check that failed and 1. Writes to a temporary folder and, where it is set, to NUMBA_CACHE_DIR.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

import numba
import numpy as np
import nvidia.dali
import torch

from dali_pipelines.config import PipelineConfig
from ocr.config import Device, OptimizerConfig
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.plan import SamplePlanner
from ocr.datasets.schemas import DatasetConfig
from ocr.device import resolve_device
from ocr.environment import device_name
from ocr.loaders.batch import Batch
from ocr.loaders.engines import Engine
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

IMAGE_SIZE = 640
MEAN_LEVELS = {"cpu": 0.1, "cuda": 0.5}
"""Greatest mean difference of DALI's pixels from those of loader=torch, in levels of 255; a GPU decodes by its own arithmetic."""
MAP_SHARE = 0.01
"""Part of the shrink map's pixels at text that may differ from the exact reference: those on the border."""
MIN_RECALL = 0.9
"""Of the words that post-processing finds again in the targets themselves."""


class CheckFailed(RuntimeError):
    """What was found, what was expected, and what to do."""


def check_gpu(device: Device, environment: Mapping[str, str], num_gpus: int) -> None:
    """Passes unless a GPU was asked for that is not there.

    Args:
        device: auto asks for one where NVIDIA's container runtime was told to bring one.
        num_gpus: that torch sees.

    Raises:
        CheckFailed: there is none.
    """
    visible = environment.get("NVIDIA_VISIBLE_DEVICES", "")
    asks_by_variable = visible not in ("", "void", "none")
    if num_gpus or device == "cpu" or (device == "auto" and not asks_by_variable):
        return
    reason = "--device gpu" if device == "gpu" else f"NVIDIA_VISIBLE_DEVICES={visible}"
    raise CheckFailed(
        f"a GPU was asked for ({reason}), but torch sees none. Start the container with --gpus all; if it was, see whether "
        "nvidia-smi works on the host and in the container, and whether the driver is new enough (CUDA 13: 580 or newer). "
        "To go on without a GPU: --device cpu, or NVIDIA_VISIBLE_DEVICES=void for the container"
    )


def drawn_receipt(folder: Path) -> ValidatedOCRDataset:
    """A data set of one receipt, drawn into an empty folder."""
    config = SyntheticConfig(num_train=1, num_val=1, notice_share=0, blank_share=0, max_side=800)
    (folder / "images" / "train").mkdir(parents=True)
    entry = draw_file(config, folder, "train", 0)
    annotations = folder / "train.json"
    annotations.write_text(json.dumps({"images": {file_name("train", 0): entry}}))
    planner = SamplePlanner(PipelineConfig(image_size=IMAGE_SIZE, output_dtype="float32"), training=False, seed=0)
    split = DatasetConfig(image_path=str(folder / "images" / "train"), annotation_path=str(annotations))
    return ValidatedOCRDataset(split, planner)


def read_both(dataset: ValidatedOCRDataset, device: torch.device) -> tuple[Batch, Batch]:
    """The batch of DALI with its targets, on the device, and that of loader=torch."""
    batches = []
    for name in ("dali", "torch"):
        engine = Engine(name, device, skip_failures=False)
        loader = BatchLoader(dataset, engine, batch_size=1, with_targets=name == "dali")
        batches += list(loader)
        loader.close()
    return batches[0], batches[1]


def check_pixels(dali: Batch, plain: Batch, mean_levels: float) -> str:
    """How far the two loaders' pixels are apart.

    Raises:
        CheckFailed: by more than `mean_levels` in the mean.
    """
    std = torch.tensor(dali.dataset.planner.config.std)[:, None, None]
    levels = (dali.images.float().cpu() - plain.images.float().cpu()).abs() * std
    mean, largest = levels.mean().item(), levels.max().item()
    if not mean <= mean_levels:
        raise CheckFailed(
            f"DALI's pixels differ from those of loader=torch by {mean:.3f} levels in the mean ({largest:.1f} at most); at most "
            f"{mean_levels} expected. The versions of DALI (nvidia-dali-*) and OpenCV may not be those of pyproject.toml"
        )
    return f"{tuple(dali.images.shape)}, {mean:.4f} levels from loader=torch in the mean, {largest:.1f} at most"


def check_targets(batch: Batch) -> TargetMaps:
    """The batch's maps, which agree with the exact reference.

    Raises:
        CheckFailed: they do not, or there are none.
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
            f"pixels at text; at most {MAP_SHARE:.0%} expected"
        )
    return targets


def train_step(batch: Batch, device: torch.device) -> str:
    """One step of a small DBNet on the batch, and its loss before and after.

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
            f"the loss was {losses[0]} and after one step {losses[1]}; two finite, different numbers expected"
        )
    return f"loss {losses[0]:.3f}, after a step {losses[1]:.3f}"


def check_postprocessing(batch: Batch, targets: TargetMaps) -> str:
    """How much of the text is found in its own target map.

    Raises:
        CheckFailed: too little.
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
            f"post-processing found {counts.matched} of {counts.num_targets} texts in their target map; {MIN_RECALL:.0%} expected"
        )
    return f"{counts.matched} of {counts.num_targets} texts found again in their target map"


def run_checks(device_choice: Device, folder: Path) -> None:
    """Prints a line for each check.

    Args:
        folder: empty; takes the drawn receipt.

    Raises:
        CheckFailed: the first that fails.
    """
    num_gpus = torch.cuda.device_count()
    _passed(
        "versions",
        f"Python {platform.python_version()}, torch {torch.__version__}, DALI {nvidia.dali.__version__}, "
        f"CUDA of torch: {torch.version.cuda or 'none'}, GPUs: {num_gpus}",
    )
    check_gpu(device_choice, os.environ, num_gpus)
    device = resolve_device(device_choice)
    _passed("device", device_name(device))
    dataset = drawn_receipt(folder)
    _passed("drawing", f"a receipt of {dataset.manifest.polygons.num_polygons} texts")
    dali, plain = read_both(dataset, device)
    _passed("DALI", check_pixels(dali, plain, MEAN_LEVELS[device.type]))
    targets = check_targets(dali)
    _passed("targets", "as the exact reference makes them")
    _passed("training", train_step(dali, device))
    _passed("post-processing", check_postprocessing(dali, targets))


def _passed(name: str, text: str) -> None:
    print(f"{name}: {text}", flush=True)


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m ocr.self_test", description="Does everything work on this machine?"
    )
    parser.add_argument(
        "--device", choices=get_args(Device), default="auto", help="auto: a GPU where there is one or one was asked for"
    )
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        if not numba.config.CACHE_DIR:  # otherwise beside the code, which this user may not write
            numba.config.CACHE_DIR = str(Path(folder, "numba"))
        os.environ.setdefault(
            "TORCHINDUCTOR_CACHE_DIR", str(Path(folder, "inductor"))
        )  # which torch makes for any optimizer
        try:
            run_checks(given.device, Path(folder, "receipt"))
        except Exception as error:  # whatever a library raises here is a check that failed
            print(f"self-test FAILED: {type(error).__name__}: {error}", file=sys.stderr)
            return 1
    print("self-test passed")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
