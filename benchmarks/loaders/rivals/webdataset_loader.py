"""WebDataset: tar shards, read in sequence by worker processes."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.utils.data import DataLoader

from benchmarks.loaders.processes import flush
from benchmarks.loaders.rivals.image import ImageFunction, naming_file, normalized, read, scaled_levels
from benchmarks.loaders.rivals.optional import optional_module
from benchmarks.loaders.rivals.turbojpeg_loader import RESIZE_FILTER, decode_only
from benchmarks.loaders.rivals.worker_processes import Loaded, WorkerProcesses, worker_options
from benchmarks.loaders.row_loader import RivalFiles


def webdataset_loader(files: RivalFiles) -> WorkerProcesses:
    """Returns `wds.WebDataset` over shards, which are written to `files.scratch` first and removed by `close`.

    Each worker has one shard, and batches are dealt to the shards in turn. PyTorch takes batches from its workers in turn too,
    which keeps the order.

        shard 0   batch 0, batch 2, batch 4
        shard 1   batch 1, batch 3

    Raises:
        CannotRun: webdataset is missing.
        UnreadableFile: a file that cannot be read.
    """
    webdataset = optional_module("webdataset")
    folder = TemporaryDirectory(dir=files.scratch)
    shards = _write_shards(webdataset, files, Path(folder.name))
    return WorkerProcesses(
        files,
        resize_filter=RESIZE_FILTER,
        load=_shard_loader(webdataset, shards, files, scaled_levels),
        decode=_shard_loader(webdataset, shards, files, decode_only),
        finish=normalized,
        shards=(shards, folder),
    )


def _write_shards(webdataset: Any, files: RivalFiles, folder: Path) -> list[str]:
    batches = [
        range(first, min(first + files.batch_size, len(files.paths)))
        for first in range(0, len(files.paths), files.batch_size)
    ]
    num_shards = max(1, files.num_workers)
    shards = [str(folder / f"{shard:06d}.tar") for shard in range(num_shards)]
    for shard, path in enumerate(shards):
        with webdataset.TarWriter(path) as writer:
            for index in (index for batch in batches[shard::num_shards] for index in batch):
                writer.write({"__key__": f"{index:08d}", "image": read(files, index)})
    flush(shards)
    return shards


def _shard_loader(
    webdataset: Any, shards: list[str], files: RivalFiles, function: ImageFunction
) -> "DataLoader[Loaded]":
    def load(sample: dict[str, Any]) -> tuple[torch.Tensor, int]:
        index = int(sample["__key__"])
        return naming_file(function, files, index, sample["image"]), index

    dataset = webdataset.WebDataset(shards, shardshuffle=False, empty_check=False).map(load)
    batches = dataset.batched(files.batch_size, collation_fn=torch.utils.data.default_collate)
    return DataLoader(batches, batch_size=None, **worker_options(files))
