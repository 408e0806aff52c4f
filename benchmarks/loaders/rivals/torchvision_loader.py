"""torchvision's decoders and v2 transforms, in worker processes and on the GPU."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch.nn.functional import pad

from benchmarks.loaders.rivals.image import (
    ImageFunction,
    decode_full,
    input_batch,
    naming_file,
    normalized,
    read,
    stored_target,
)
from benchmarks.loaders.rivals.optional import optional_module
from benchmarks.loaders.rivals.worker_processes import WorkerProcesses, data_loader
from benchmarks.loaders.row_loader import CannotRun, InputBatch, RivalFiles


def torchvision_loader(files: RivalFiles) -> WorkerProcesses:
    """Returns a DataLoader with `decode_image` and v2 resize; bytes are sent between processes.

    A damaged scan of full length is decoded without an error; other damage raises.

    Raises:
        CannotRun: torchvision is missing.
    """
    decode = _decoder()
    resize = optional_module("torchvision.transforms.v2.functional").resize

    def levels(files: RivalFiles, index: int, encoded: bytes) -> torch.Tensor:
        resized = resize(decode(files, index, encoded), list(files.resized_sizes[index]), antialias=True)
        height, width = resized.shape[1:]
        return pad(resized, (0, files.image_size - width, 0, files.image_size - height)).contiguous()

    def decode_only(files: RivalFiles, index: int, encoded: bytes) -> torch.Tensor:
        return torch.tensor(decode(files, index, encoded).shape)

    return WorkerProcesses(
        files,
        resize_filter="antialiased bilinear (torchvision)",
        load=data_loader(files, levels),
        decode=data_loader(files, decode_only),
        finish=normalized,
    )


def _decoder() -> ImageFunction:
    io = optional_module("torchvision.io")

    def decode(files: RivalFiles, index: int, encoded: bytes) -> torch.Tensor:
        return io.decode_image(_bytes_tensor(encoded), io.ImageReadMode.RGB, apply_exif_orientation=True)

    return decode


def _bytes_tensor(encoded: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(encoded), dtype=torch.uint8) if encoded else torch.empty(0, dtype=torch.uint8)


class TorchvisionCuda:
    """Runs `decode_jpeg` of whole batches and v2 resize on the GPU while threads read the files of the next batch.

    Files that the GPU cannot decode (PNG, CMYK) are decoded on the CPU.

    Raises:
        CannotRun: no CUDA device, or torchvision is missing.
    """

    resize_filter = "antialiased bilinear (torchvision, CUDA)"

    def __init__(self, files: RivalFiles) -> None:
        if files.device.type != "cuda" or not torch.cuda.is_available():
            raise CannotRun("decode_jpeg of torchvision on the GPU: no CUDA device")
        self._files = files
        self.files_read = files.paths
        self._io = optional_module("torchvision.io")
        self._resize = optional_module("torchvision.transforms.v2.functional").resize
        self._readers: ThreadPoolExecutor | None = None

    def epoch(self) -> Iterator[InputBatch]:
        for indices, encoded in self._read_batches():
            size = self._files.image_size
            levels = torch.zeros((len(indices), 3, size, size), dtype=torch.uint8, device=self._files.device)
            for image, index, stored in zip(levels, indices, self._decode(indices, encoded), strict=True):
                resized = self._resize(stored, list(stored_target(self._files, index)), antialias=True)
                upright = turned_upright(resized, self._files.orientations[index])
                image[:, : upright.shape[1], : upright.shape[2]] = upright
            yield input_batch(self._files, normalized(levels, self._files), indices)

    def decoded(self) -> Iterator[int]:
        for indices, encoded in self._read_batches():
            yield len(self._decode(indices, encoded))

    def close(self) -> None:
        if self._readers is not None:
            self._readers.shutdown()
            self._readers = None

    def _read_batches(self) -> Iterator[tuple[tuple[int, ...], list[bytes]]]:
        if self._readers is None:
            self._readers = ThreadPoolExecutor(max(1, self._files.num_workers))
        ahead = None
        for first in range(0, len(self._files.paths), self._files.batch_size):
            indices = tuple(range(first, min(first + self._files.batch_size, len(self._files.paths))))
            reading = indices, self._readers.map(lambda index: read(self._files, index), indices)
            if ahead is not None:
                yield ahead[0], list(ahead[1])
            ahead = reading
        if ahead is not None:
            yield ahead[0], list(ahead[1])

    def _decode(self, indices: tuple[int, ...], encoded: list[bytes]) -> list[torch.Tensor]:
        """Returns (3, H, W) uint8 images on the GPU, not turned."""
        try:
            return self._decode_jpegs(encoded)
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError:  # the GPU cannot decode one of them, or it is damaged
            return [
                naming_file(self._decode_alone, self._files, index, data)
                for index, data in zip(indices, encoded, strict=True)
            ]

    def _decode_alone(self, files: RivalFiles, index: int, encoded: bytes) -> torch.Tensor:
        try:
            return self._decode_jpegs([encoded])[0]
        except RuntimeError:
            return torch.from_numpy(decode_full(files, index, encoded)).permute(2, 0, 1).to(files.device)

    def _decode_jpegs(self, encoded: list[bytes]) -> list[torch.Tensor]:
        tensors = [_bytes_tensor(data) for data in encoded]
        return self._io.decode_jpeg(tensors, self._io.ImageReadMode.RGB, device=self._files.device)


def turned_upright(stored_CHW: torch.Tensor, orientation: int) -> torch.Tensor:
    """Returns the image turned by its EXIF orientation, 1 to 8, which CUDA decoding ignores."""
    if orientation >= 5:
        stored_CHW = stored_CHW.transpose(1, 2)
    flipped = [axis for axis, where in ((1, (3, 4, 7, 8)), (2, (2, 3, 6, 7))) if orientation in where]
    return stored_CHW.flip(flipped) if flipped else stored_CHW
