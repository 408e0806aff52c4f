"""Reads, decodes and resizes one image with the libraries that users of the rivals would choose."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import simplejpeg
import torch

from benchmarks.loaders.row_loader import InputBatch, RivalFiles
from dali_pipelines.rendering import ImageArray
from dali_pipelines.turbojpeg import decode_upright, suits_turbojpeg, turned_upright

ImageFunction = Callable[[RivalFiles, int, bytes], torch.Tensor]
"""Makes a worker's output from the position and the bytes of a file; raises whatever the library raises."""
T = TypeVar("T")


class UnreadableFile(Exception):
    """A file is missing, damaged or no image; the message names it."""


def read(files: RivalFiles, index: int) -> bytes:
    """Returns the bytes of a file.

    Raises:
        UnreadableFile: it cannot be read.
    """
    try:
        return Path(files.paths[index]).read_bytes()
    except OSError as error:
        raise UnreadableFile(f"{files.paths[index]}: cannot be read: {error}") from error


def naming_file(function: Callable[[RivalFiles, int, bytes], T], files: RivalFiles, index: int, encoded: bytes) -> T:
    """Returns the value of the function.

    Raises:
        UnreadableFile: the function failed; the message names the file.
    """
    try:
        return function(files, index, encoded)
    except Exception as error:  # broken files make Pillow raise SyntaxError, OSError, struct.error, ...
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise UnreadableFile(f"{files.paths[index]}: cannot be decoded: {reason}") from error


def stored_target(files: RivalFiles, index: int) -> tuple[int, int]:
    """Returns the (H, W) of the resized image before it is turned upright."""
    height, width = files.resized_sizes[index]
    return (width, height) if files.orientations[index] >= 5 else (height, width)


def decode_scaled(files: RivalFiles, index: int, encoded: bytes) -> ImageArray:
    """Returns (H, W, 3) RGB, not turned; libjpeg-turbo halves the image while no side gets smaller than the target's.

    Measured on receipts at 640: 1.43 ms per image; 1.63 ms if scales between 1 and 2 are allowed, which have no SIMD code.
    """
    if not suits_turbojpeg(encoded):
        return decode_upright(encoded, orientation=1, use_turbojpeg=False)
    height, width = stored_target(files, index)
    return simplejpeg.decode_jpeg(
        encoded, "RGB", fastdct=True, fastupsample=True, min_height=height, min_width=width, min_factor=2
    )


def decode_full(files: RivalFiles, index: int, encoded: bytes) -> ImageArray:
    """Returns (H, W, 3) RGB, not turned, writable; decoded by simplejpeg if it can, else by Pillow."""
    return np.require(decode_upright(encoded, orientation=1), requirements="W")


def scaled_levels(files: RivalFiles, index: int, encoded: bytes) -> torch.Tensor:
    """Returns (3, S, S) uint8: `decode_scaled`, then OpenCV's bilinear filter."""
    height, width = stored_target(files, index)
    resized = cv2.resize(decode_scaled(files, index, encoded), (width, height), interpolation=cv2.INTER_LINEAR)
    return placed(resized, files, index)


def antialiased_levels(files: RivalFiles, index: int, encoded: bytes) -> torch.Tensor:
    """Returns (3, S, S) uint8: `decode_full`, then PyTorch's antialiased bilinear filter for bytes."""
    stored_CHW = torch.from_numpy(decode_full(files, index, encoded)).permute(2, 0, 1)
    resized = torch.nn.functional.interpolate(
        stored_CHW[None], stored_target(files, index), mode="bilinear", antialias=True
    )[0]
    return placed(resized.permute(1, 2, 0).numpy(), files, index)


def placed(stored_resized_HWC: ImageArray, files: RivalFiles, index: int) -> torch.Tensor:
    """Returns (3, S, S) uint8: the image upright, top left on black."""
    upright = np.ascontiguousarray(turned_upright(stored_resized_HWC, files.orientations[index]))
    height, width = upright.shape[:2]
    levels = np.zeros((3, files.image_size, files.image_size), np.uint8)
    levels[:, :height, :width] = cv2.split(upright)  # ten times as fast as a transposing copy
    return torch.from_numpy(levels)


def normalized(levels_BCHW: torch.Tensor, files: RivalFiles) -> torch.Tensor:
    """Returns (B, 3, S, S) `files.dtype` on `files.device` from uint8."""
    mean, std = (
        torch.tensor(values)[:, None, None].to(files.device, non_blocking=True) for values in (files.mean, files.std)
    )
    levels = levels_BCHW.to(files.device, non_blocking=True)
    return levels.float().sub_(mean).div_(std).to(files.dtype)


def input_batch(files: RivalFiles, images: torch.Tensor, indices: tuple[int, ...]) -> InputBatch:
    """Returns the batch, with targets if `files` makes them."""
    return InputBatch(images, indices, None if files.make_targets is None else files.make_targets(indices))
