"""SPDL: a pipeline of threads in one process."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from benchmarks.loaders.rivals.image import (
    ImageFunction,
    UnreadableFile,
    antialiased_levels,
    decode_full,
    decode_scaled,
    input_batch,
    naming_file,
    normalized,
    read,
    scaled_levels,
)
from benchmarks.loaders.rivals.optional import optional_module
from benchmarks.loaders.rivals.turbojpeg_loader import RESIZE_FILTER
from benchmarks.loaders.row_loader import InputBatch, RivalFiles
from dali_pipelines.rendering import ImageArray

BATCHES_AHEAD = 2
"""Equal to the prefetch of a DataLoader worker."""


def spdl_scaled(files: RivalFiles) -> "SpdlThreads":
    """Returns SPDL in its fastest form: simplejpeg scales while it decodes. It took 7.4 ms per image; SPDL's own decoder, FFmpeg,
    took 13.0 ms."""
    return SpdlThreads(files, RESIZE_FILTER, scaled_levels, decode_scaled)


def spdl_antialiased(files: RivalFiles) -> "SpdlThreads":
    """Returns SPDL in its fastest form with an antialiased filter."""
    return SpdlThreads(files, "antialiased bilinear (PyTorch)", antialiased_levels, decode_full)


class SpdlThreads:
    """read, decode, resize | aggregate | transfer, normalise | sink, in `num_workers` threads.

    As in SPDL's own DataLoader, a pipeline is built for each epoch and the threads stay. From the first epoch on, OpenCV and
    PyTorch use one core per thread in this whole process.

    Raises:
        CannotRun: SPDL is missing.
    """

    def __init__(
        self,
        files: RivalFiles,
        resize_filter: str,
        load: ImageFunction,
        decode: Callable[[RivalFiles, int, bytes], ImageArray],
    ) -> None:
        self.resize_filter = resize_filter
        self.files_read = files.paths
        self._spdl = optional_module("spdl.pipeline")
        self._files, self._load, self._decode = files, load, decode
        self._threads: ThreadPoolExecutor | None = None

    def epoch(self) -> Iterator[InputBatch]:
        # SPDL advises one transfer to a GPU at a time; a CPU normalises several batches at once.
        num_finishing = 1 if self._files.device.type == "cuda" else self._num_threads
        for images, indices in self._run(self._places_in_batches(), self._load_place, self._finish, num_finishing):
            yield input_batch(self._files, images, indices)

    def decoded(self) -> Iterator[int]:
        yield from self._run(range(len(self._files.paths)), self._decode_only, _count_or_error, 1)

    def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown()
            self._threads = None

    @property
    def _num_threads(self) -> int:
        return max(1, self._files.num_workers)

    def _run(self, source: Any, work: Callable, finish: Callable, num_finishing: int) -> Iterator[Any]:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._num_threads, initializer=_one_thread)
        builder = self._spdl.PipelineBuilder()
        builder.add_source(source)
        builder.pipe(work, concurrency=self._num_threads, executor=self._threads, output_order="input")
        builder.aggregate(self._files.batch_size)
        builder.pipe(finish, concurrency=num_finishing, executor=self._threads, output_order="input")
        builder.add_sink(BATCHES_AHEAD)
        # By default SPDL skips failures.
        pipeline = builder.build(num_threads=1, max_failures=0)
        with pipeline.auto_stop():
            for result in pipeline:
                if isinstance(result, UnreadableFile):
                    raise result
                yield result

    def _places_in_batches(self) -> Iterator[tuple[torch.Tensor, int, torch.Tensor]]:
        """Yields (batch, index, the image's slot in the batch). Threads write into the batch, so nothing is stacked."""
        num_images, size = len(self._files.paths), self._files.image_size
        for first in range(0, num_images, self._files.batch_size):
            indices = range(first, min(first + self._files.batch_size, num_images))
            batch = torch.empty(
                (len(indices), 3, size, size), dtype=torch.uint8, pin_memory=self._files.device.type == "cuda"
            )
            for image, index in zip(batch, indices, strict=True):
                yield batch, index, image

    # SPDL reports which stage failed, not why: errors travel as values.

    def _load_place(self, place: tuple[torch.Tensor, int, torch.Tensor]) -> tuple[torch.Tensor, int] | UnreadableFile:
        batch, index, image = place
        try:
            image.copy_(naming_file(self._load, self._files, index, read(self._files, index)))
        except UnreadableFile as error:
            return error
        return batch, index

    def _finish(
        self, loaded: list[tuple[torch.Tensor, int] | UnreadableFile]
    ) -> tuple[torch.Tensor, tuple[int, ...]] | UnreadableFile:
        good = []
        for item in loaded:
            if isinstance(item, UnreadableFile):
                return item
            good.append(item)
        return normalized(good[0][0], self._files), tuple(index for _, index in good)

    def _decode_only(self, index: int) -> int | UnreadableFile:
        try:
            return len(naming_file(self._decode, self._files, index, read(self._files, index)))
        except UnreadableFile as error:
            return error


def _count_or_error(decoded: list[int | UnreadableFile]) -> int | UnreadableFile:
    return next((item for item in decoded if isinstance(item, UnreadableFile)), len(decoded))


def _one_thread() -> None:
    torch.set_num_threads(1)  # OpenCV has one already: dali_pipelines/rendering.py
