"""States what must be true of the files of runs that were killed, stopped or without room."""

import csv
import json
import tarfile
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import cv2
import numpy as np
import torch

from ocr.cache.files import HEADER, EntryFiles
from ocr.checkpoint import read_checkpoint
from ocr.datasets.shards.images import load_shards


def timed_whole_run(start: Callable[..., BaseProcess], parent: Path, *overrides: str, kind: str = "train") -> float:
    """Runs in `parent / "whole"` without a stop, and returns its seconds.

    A run before it starts the server that loads the libraries.
    """
    for name in ("first", "whole"):
        began = time.monotonic()
        process = start(parent / name, *overrides, kind=kind)
        process.join()
        assert process.exitcode == 0, (parent / f"{name}.log").read_text()
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


def assert_little_lost(folder: Path) -> None:
    """Every file is complete, and last.ckpt holds all steps but the one under way."""
    assert_whole(folder)
    metrics = folder / "metrics.csv"
    if metrics.is_file():
        # Row k is written in step k + 1. The checkpoint after step k may be under way then, the one before is written.
        assert last_step(folder) >= max(int(row["step"]) for row in csv.DictReader(metrics.open())) - 1


def last_step(folder: Path) -> int:
    """Returns the step of last.ckpt; -1 without one."""
    path = folder / "checkpoints/last.ckpt"
    return torch.load(path, weights_only=True)["global_step"] if path.is_file() else -1


def assert_same_end(folder: Path, other: Path) -> None:
    """Two runs have ended with the same weights, losses and predictions, bit for bit."""
    assert_whole(folder)
    states = [torch.load(path / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for path in (folder, other)]
    assert all(torch.equal(tensor, states[1][key]) for key, tensor in states[0].items())
    assert (folder / "predictions.json").read_bytes() == (other / "predictions.json").read_bytes()


def assert_whole_entries(folder: Path) -> None:
    """Every entry of the cache in the folder is complete."""
    files = EntryFiles(folder, 10**9)  # removes what a killed run has left
    for path in folder.iterdir():
        key, size = HEADER.unpack(path.read_bytes()[: HEADER.size])[1:3]
        assert path.stem == key.hex()
        files.read(key, [np.empty(size, np.uint8)])


def assert_whole_data(folder: Path) -> None:
    """Every image, annotation file, map and shard that a preparation has written so far is complete."""
    for path in finished_files(folder):
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".jpg":
            assert cv2.imread(str(path)) is not None, path
        elif path.suffix == ".npz":
            with np.load(path) as maps:
                assert all(maps[name].size for name in maps.files)
        elif path.suffix == ".tar":
            with tarfile.open(path) as shard:
                assert all(len(shard.extractfile(member).read()) == member.size for member in shard)
    for index in folder.glob("out/shards/*/index.json"):  # an index is there only if all that it lists is
        manifest, _ = load_shards(str(index.parent))
        assert all(manifest.images.read(number) for number in range(len(manifest)))


def finished_files(folder: Path) -> list[Path]:
    """Returns the files of a preparation, without those that are being written."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".part"))


def assert_same_data(folder: Path, other: Path) -> None:
    """Two preparations have written the same files, with the same bytes. Only their marker names their folder.

    Left out is what holds the times of files: memos of audits, and notes of what annotations were made from.
    """
    assert_whole_data(folder)
    found, expected = (
        {
            str(path.relative_to(one / "out")): path.read_bytes()
            for path in (one / "out").rglob("*")
            if path.is_file() and ".dbnet_audit" not in path.parts and path.suffix != ".made"
        }
        for one in (folder, other)
    )
    assert found.keys() == expected.keys(), sorted(found.keys() ^ expected.keys())
    assert [name for name in found if found[name] != expected[name]] in ([], ["prepared.json"])
