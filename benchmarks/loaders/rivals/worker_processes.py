"""A PyTorch DataLoader with persistent worker processes, which most rivals build on."""

from collections.abc import Callable, Iterator, Sequence
from tempfile import TemporaryDirectory

import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.loaders.rivals.image import ImageFunction, UnreadableFile, input_batch, naming_file, read
from benchmarks.loaders.row_loader import InputBatch, RivalFiles

Loaded = tuple[torch.Tensor, torch.Tensor]
"""Output of the workers, and indices of the images."""


class WorkerProcesses:
    """Loads images in worker processes and finishes them in the main process.

    Args:
        resize_filter: name of the filter.
        load: loader whose workers return finished or nearly finished images.
        decode: loader whose workers only decode.
        finish: makes (B, 3, S, S) on the device from the workers' images.
        shards: files to read instead of the images, and their folder, which `close` removes.
    """

    def __init__(
        self,
        files: RivalFiles,
        *,
        resize_filter: str,
        load: "DataLoader[Loaded]",
        decode: "DataLoader[Loaded]",
        finish: Callable[[torch.Tensor, RivalFiles], torch.Tensor],
        shards: "tuple[Sequence[str], TemporaryDirectory[str]] | None" = None,
    ) -> None:
        self.resize_filter = resize_filter
        self.files_read: Sequence[str] = files.paths if shards is None else shards[0]
        self._folder = None if shards is None else shards[1]
        self._files, self._finish = files, finish
        self._load, self._decode = load, decode

    def epoch(self) -> Iterator[InputBatch]:
        for images, indices in _batches(self._load):
            yield input_batch(self._files, self._finish(images, self._files), tuple(indices.tolist()))

    def decoded(self) -> Iterator[int]:
        for _, indices in _batches(self._decode):
            yield len(indices)

    def close(self) -> None:
        for loader in (self._load, self._decode):
            loader._iterator = None  # which owns the worker processes; PyTorch has no public way to end them
        if self._folder is not None:
            self._folder.cleanup()


def data_loader(files: RivalFiles, function: ImageFunction) -> "DataLoader[Loaded]":
    """Returns a loader that reads the files and calls the function for each, in order."""
    return DataLoader(_LoadedImages(files, function), batch_size=files.batch_size, **worker_options(files))


def worker_options(files: RivalFiles) -> dict:
    """Returns the arguments of `DataLoader` that all these rows share. Workers prefetch two batches each, PyTorch's default."""
    in_processes = files.num_workers > 0
    return {
        "num_workers": files.num_workers,
        "persistent_workers": in_processes,
        "pin_memory": files.device.type == "cuda",
        "worker_init_fn": _one_thread,
        "multiprocessing_context": "fork" if in_processes else None,  # transforms and maps need not be picklable
    }


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)  # OpenCV has one already: dali_pipelines/rendering.py


class _LoadedImages(Dataset[Loaded]):
    def __init__(self, files: RivalFiles, function: ImageFunction) -> None:
        self._files, self._function = files, function

    def __len__(self) -> int:
        return len(self._files.paths)

    def __getitem__(self, index: int) -> Loaded:
        image = naming_file(self._function, self._files, index, read(self._files, index))
        return image, torch.tensor(index)


def _batches(loader: "DataLoader[Loaded]") -> Iterator[Loaded]:
    try:
        yield from loader
    except UnreadableFile as error:
        # The message of a worker's error is its whole traceback; the last line names the file.
        reason = str(error).strip().rpartition("\n")[2].removeprefix(f"{__package__}.image.UnreadableFile: ")
        # PyTorch's frames and the error refer to each other. The garbage collector would free the queues before the processes,
        # and each worker would then take five seconds to end.
        error.__traceback__ = None
        raise UnreadableFile(reason) from error
