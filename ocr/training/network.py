"""Calls the network with the configured memory format, precision and compiler; in evaluation with batches of one size."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ocr.config import TrainerConfig
from ocr.models.db_head import DBMaps
from ocr.training.content_forward import forward_inputs
from ocr.training.cuda_graphs import GraphedForward

log = logging.getLogger(__name__)


def prepare_network(model: nn.Module, settings: TrainerConfig) -> None:
    """Sets the network's memory format and compiler, in place, so that the names in checkpoints stay."""
    if settings.channels_last:
        model.to(memory_format=torch.channels_last)
    if settings.compile:
        # dynamic=False: after the first smaller batch PyTorch would use kernels for any batch size, for all batches.
        model.compile(dynamic=False)


def forward_maps(model: nn.Module, images: Tensor, channels_last: bool) -> DBMaps:
    """Returns the maps of (B, 3, H, W) normalised images of any float type and memory format.

    Args:
        model: a DBNet, or a network for inference, whose result has `prob_map` only.
    """
    if not torch.is_autocast_enabled(images.device.type):
        weight = next(model.parameters(), None)  # the network of an .onnx file has none
        images = images if weight is None else images.to(weight.dtype)  # cached inputs are float16
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    if len(images) == 1 and model.training:
        with running_statistics_of_single_values(model):
            return model(images)
    return model(images)


@contextmanager
def running_statistics_of_single_values(model: nn.Module) -> Iterator[None]:
    """Makes batch norms use their running statistics where they get a single value per channel, which has no variance.

    That happens with a batch of one image behind global pooling (ResNeSt, SKNet), or at stride 32 of an image of 32 pixels. PyTorch
    raises an error there, which would end a run at its last, smaller batch.
    """
    hooks: list[RemovableHandle] = []

    def before(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0].numel() == inputs[0].shape[1]:
            layer.training = False

    def after(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        layer.training = True

    for layer in model.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.training:
            hooks += [layer.register_forward_pre_hook(before), layer.register_forward_hook(after)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class EvaluationForward:
    """The forward pass of evaluation, `forward_maps`, replayed as a CUDA graph if the settings say so.

    Where a change of batch size is expensive (torch.compile, CUDA graphs), a smaller batch, usually the last one, is padded to
    the full size, and the maps of the padding are cut off. Elsewhere `forward_inputs` takes the batch. In evaluation the images of
    a batch do not influence each other.

    Args:
        device_type: cuda or cpu.
    """

    def __init__(self, model: nn.Module, settings: TrainerConfig, device_type: str) -> None:
        eager = partial(forward_maps, model, channels_last=settings.channels_last)
        self._batch_size = 0
        """The full size, which the first batch has; 0: no batch yet."""
        self._graphed: GraphedForward | None = None
        if settings.cuda_graphs and device_type == "cuda":
            self._graphed = GraphedForward(eager, lambda: chain(model.parameters(), model.buffers()))
        elif settings.cuda_graphs:
            log.warning("trainer.cuda_graphs has no effect on a CPU")
        self._forward = self._graphed or eager
        self._pads = settings.compile or self._graphed is not None

    def __call__(self, images: Tensor, sizes: npt.NDArray[np.int64]) -> DBMaps:
        """Returns the maps of a batch. With CUDA graphs, the next call overwrites them.

        Args:
            images: (B, 3, H, W), each image at the top left.
            sizes: (B, 2) (H, W) of each image in pixels.
        """
        if not self._pads:
            return forward_inputs(self._forward, images, sizes)
        self._batch_size = self._batch_size or len(images)
        if len(images) >= self._batch_size:
            return self._forward(images)
        maps = self._forward(_padded(images, self._batch_size))
        return type(maps)(*(tensor[: len(images)] for tensor in maps))

    def release(self) -> None:
        """Frees the memory of a CUDA graph; the next batch captures it again."""
        if self._graphed is not None:
            self._graphed.release()


def _padded(images: Tensor, batch_size: int) -> Tensor:
    """Returns (batch_size, 3, H, W) images in the same memory format, the last one repeated.

    Copies instead of torch.cat, which refuses float16 under an autocast to bfloat16 on a CPU.
    """
    in_pixels = images.is_contiguous(memory_format=torch.channels_last)
    padded = torch.empty(
        (batch_size, *images.shape[1:]),
        dtype=images.dtype,
        device=images.device,
        memory_format=torch.channels_last if in_pixels else torch.contiguous_format,
    )
    padded[: len(images)] = images
    padded[len(images) :] = images[-1]
    return padded
