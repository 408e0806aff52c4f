"""The network for images that were rendered outside a loader: from RGB levels to map levels."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from dali_pipelines.normalize import ImageFinisher, input_dtype, normalize_levels
from dali_pipelines.rendering import ImageArray
from ocr.config import InferenceConfig, TrainConfig
from ocr.device import AUTOCAST
from ocr.errors import InputError
from ocr.models.db_head import DBMaps
from ocr.pages.detector import PageDetector
from ocr.pages.windows import NETWORK_STRIDE
from ocr.postprocess.levels import Levels, to_levels
from ocr.training.content_forward import forward_inputs
from ocr.training.network import forward_maps

MAX_SCALE = 2
"""Largest factor by which tiles are scaled up: memory grows with its square, and there is nothing more to see."""


class RenderedForward:
    """Runs the network over rendered images. Threads may share it.

    Args:
        model: the network, on the device and prepared; a DBNet, or a network for inference.
        settings: configuration of the run.
        device: device of the network.
    """

    def __init__(self, model: nn.Module, settings: TrainConfig, device: torch.device) -> None:
        self._model, self._device = model, device
        self._pipeline, self._bin_thresh = settings.pipeline, settings.postprocess.bin_thresh
        self._channels_last = settings.trainer.channels_last
        self._autocast_dtype = AUTOCAST.get(settings.trainer.precision)
        size = settings.pipeline.image_size
        self._finishers = [self._build_finisher(side) for side in (size // 2 // NETWORK_STRIDE * NETWORK_STRIDE, size)]

    @torch.inference_mode()
    def __call__(self, images: Sequence[ImageArray]) -> Levels:
        """Returns the levels of the probability maps, (B, Hm, Wm), of B images.

        Args:
            images: (H, W, 3) RGB uint8 each, at most as large as the network's input, and padded to it with black right and below.
                Images of at most half its sides are padded to half its sides.
        """
        with torch.autocast(self._device.type, self._autocast_dtype, enabled=self._autocast_dtype is not None):
            maps = self._maps(self._inputs(images), [image.shape[:2] for image in images])
        return to_levels(maps.prob_map, self._bin_thresh).cpu().numpy()

    def _maps(self, inputs: Tensor, sizes: Sequence[tuple[int, int]]) -> DBMaps:
        forward = partial(forward_maps, self._model, channels_last=self._channels_last)
        return forward_inputs(forward, inputs, sizes)

    def _build_finisher(self, size: int) -> ImageFinisher:
        """Returns the part that pads and batches images: on a CPU it normalises them too, for a GPU it keeps uint8 levels."""
        config = self._pipeline
        if self._device.type != "cpu":
            return ImageFinisher(size, config.mean, config.std, torch.uint8, layout="HWC")
        dtype = input_dtype(config, "cpu")
        return ImageFinisher(size, config.mean, config.std, dtype, layout=config.output_layout)

    def _inputs(self, images: Sequence[ImageArray]) -> Tensor:
        longest = max(max(image.shape[:2]) for image in images)
        finisher = next(fitting for fitting in self._finishers if fitting.size >= longest)
        batch = finisher.finish(images)
        if self._device.type == "cpu":
            return batch
        dtype = input_dtype(self._pipeline, self._device.type)
        return normalize_levels(batch.to(self._device), self._pipeline.mean, self._pipeline.std, dtype=dtype)


def build_page_detector(
    config: InferenceConfig, settings: TrainConfig, forward: RenderedForward
) -> PageDetector | None:
    """Returns what looks closer at pages, as `tile` and `rotations` say; None: both are off.

    Args:
        config: the command's keys.
        settings: the restored configuration.
        forward: the network.

    Raises:
        InputError: tiles would be scaled up too far.
    """
    if isinstance(config.tile, int) and settings.pipeline.image_size > MAX_SCALE * config.tile:
        raise InputError(
            f"tile={config.tile}: each tile would be scaled up to image_size={settings.pipeline.image_size}; expected at least "
            f"{settings.pipeline.image_size // MAX_SCALE}, or a smaller image_size"
        )
    if config.tile == "none" and config.rotations == "none":
        return None
    return PageDetector(
        config.tile,
        config.rotations,
        image_size=settings.pipeline.image_size,
        batch_size=settings.dataloader.eval_batch_size,
        postprocess=settings.postprocess,
        targets=settings.targets,
        forward=forward,
    )
