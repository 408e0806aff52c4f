"""The loader of most text detection code: Pillow, Albumentations on NumPy arrays, float32 sent between processes."""

import os

import cv2
import torch

from benchmarks.loaders.rivals.image import ImageFunction
from benchmarks.loaders.rivals.optional import optional_module
from benchmarks.loaders.rivals.worker_processes import WorkerProcesses, data_loader
from benchmarks.loaders.row_loader import RivalFiles
from dali_pipelines.rendering import ImageArray
from dali_pipelines.turbojpeg import decode_upright


def albumentations_loader(files: RivalFiles) -> WorkerProcesses:
    """Returns a DataLoader with Pillow and Albumentations.

    Raises:
        CannotRun: Albumentations is missing.
    """
    return WorkerProcesses(
        files,
        resize_filter="bilinear (OpenCV)",  # LongestMaxSize's default
        load=data_loader(files, _transform(files)),
        decode=data_loader(files, _decode_only),
        finish=_on_device,
    )


def _transform(files: RivalFiles) -> ImageFunction:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # otherwise the import checks for updates online
    albumentations = optional_module("albumentations")
    size = files.image_size
    transform = albumentations.Compose(
        [
            albumentations.LongestMaxSize(size, interpolation=cv2.INTER_LINEAR),
            albumentations.PadIfNeeded(size, size, position="top_left", border_mode=cv2.BORDER_CONSTANT, fill=0),
            albumentations.Normalize(
                mean=[mean / 255 for mean in files.mean], std=[std / 255 for std in files.std], max_pixel_value=255
            ),
            albumentations.ToTensorV2(),
        ]
    )

    def transformed(files: RivalFiles, index: int, encoded: bytes) -> torch.Tensor:
        return transform(image=_decode(files, index, encoded))["image"]

    return transformed


def _decode(files: RivalFiles, index: int, encoded: bytes) -> ImageArray:
    return decode_upright(encoded, files.orientations[index], use_turbojpeg=False)


def _decode_only(files: RivalFiles, index: int, encoded: bytes) -> torch.Tensor:
    return torch.tensor(_decode(files, index, encoded).shape[:2])


def _on_device(images: torch.Tensor, files: RivalFiles) -> torch.Tensor:
    return images.to(files.device, non_blocking=True).to(files.dtype)
