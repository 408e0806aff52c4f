"""A PyTorch DataLoader with persistent worker processes: what most rivals stand on."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.loaders.rivals.image import ImageFunction, UnreadableFile, input_batch, naming_file, read
from benchmarks.loaders.row_loader import InputBatch, RivalFiles

Loaded = tuple[torch.Tensor, torch.Tensor]
"""What became of the images, and their indices."""


class WorkerProcesses:
    """A source whose images are loaded in worker processes and finished in the main process.

    Args:
        files: what is read.
        resize_filter: its name.
        load: the data loader whose workers give finished or nearly finished images.
        decode: the one whose workers only decode.
        finish: from the workers' images to (B, 3, S, S) on the device.
        files_read: what an epoch reads from disk; None: the images.
        cleanup: called last by `close`.
    """

    def __init__(
        self,
        files: RivalFiles,
        *,
        resize_filter: str,
        load: "DataLoader[Loaded]",
        decode: "DataLoader[Loaded]",
        finish: Callable[[torch.Tensor, RivalFiles], torch.Tensor],
        files_read: Sequence[str] | None = None,
        cleanup: Callable[[], None] = lambda: None,
    ) -> None:
        self.resize_filter = resize_filter
        self.files_read = files.paths if files_read is None else files_read
        self._files, self._finish, self._cleanup = files, finish, cleanup
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
        self._cleanup()


def data_loader(files: RivalFiles, function: ImageFunction) -> "DataLoader[Loaded]":
    """Reads the files and calls the function for each, in order."""
    return DataLoader(_LoadedImages(files, function), batch_size=files.batch_size, **worker_options(files))


def worker_options(files: RivalFiles) -> dict:
    """Arguments of `DataLoader` that all these rows share; two batches a worker are prepared ahead, PyTorch's default."""
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
        # A worker's message is its whole traceback; the last line is the one that it raised.
        reason = str(error).strip().rpartition("\n")[2].removeprefix(f"{__package__}.image.UnreadableFile: ")
        # PyTorch's frames hold the error that holds them. Left to the garbage collector, which takes the queues before the
        # processes, each worker would need five seconds to end.
        error.__traceback__ = None
        raise UnreadableFile(reason) from error
