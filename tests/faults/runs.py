"""The runs that the tests of this folder kill and stop, and what must be true of their files."""

import json
import logging
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from ocr.checkpoint import read_checkpoint
from ocr.command_line import compose_config
from ocr.config import TrainConfig
from ocr.training.fit import train

OVERRIDES = (
    "data=upstage",
    "device=cpu",
    "pipeline.image_size=96",
    "pipeline.augmentation.crop_size=96",
    "dataloader.batch_size=2",
    "dataloader.num_workers=0",
    "model.backbone.name=mobilenetv3_small_050",
    "model.backbone.weights=null",
    "model.fpn_channels=16",
    "trainer.max_epochs=6",
    "trainer.precision=32-true",
    "trainer.save_every_n_steps=1",
    "trainer.log_every_n_steps=1",
    "logger.num_pictures=0",
)
"""Settings of a run that takes a few seconds, and that writes all the time."""


def train_in(folder: Path, overrides: tuple[str, ...]) -> None:
    """Trains as scripts/train.py does, and logs to run.log in the folder's parent."""
    logging.basicConfig(filename=folder.with_suffix(".log"), level=logging.INFO, force=True)
    train(compose_config(TrainConfig, "train", [*OVERRIDES, *overrides]), folder)


def timed_whole_run(start: Callable[..., BaseProcess], parent: Path) -> float:
    """Trains in `parent / "whole"` without a stop, and returns its seconds.

    A run before it starts the server that loads the libraries.
    """
    for name in ("first", "whole"):
        began = time.monotonic()
        process = start(parent / name)
        process.join()
        assert process.exitcode == 0
    return time.monotonic() - began


def assert_whole(folder: Path) -> None:
    """Every file that the run has written so far is complete."""
    for path in folder.glob("checkpoints/*.ckpt"):
        read_checkpoint(path)
    for path in folder.glob("*.json"):
        json.loads(path.read_text())
    metrics = folder / "metrics.csv"
    if metrics.is_file():
        header, *lines = metrics.read_bytes().decode().split("\r\n")
        assert lines[-1] == ""
        assert {line.count(",") for line in lines[:-1]} <= {header.count(",")}


def last_step(folder: Path) -> int:
    """Returns the step of last.ckpt; -1 without one."""
    path = folder / "checkpoints/last.ckpt"
    return torch.load(path, weights_only=True)["global_step"] if path.is_file() else -1


def assert_same_end(folder: Path, other: Path) -> None:
    """Two runs have ended with the same weights and predictions, bit for bit."""
    states = [torch.load(path / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for path in (folder, other)]
    assert all(torch.equal(tensor, states[1][key]) for key, tensor in states[0].items())
    assert (folder / "predictions.json").read_bytes() == (other / "predictions.json").read_bytes()


if __name__ == "__main__":
    train_in(globals()["FOLDER"], globals()["GIVEN"])  # set by the fixture `start`
