"""How a network is called: memory format, type and compiler as the trainer's settings say; in evaluation by batches of one size."""

import logging
from collections.abc import Callable
from itertools import chain

import torch
from torch import Tensor

from ocr.config import TrainerConfig
from ocr.models.db_head import DBMaps
from ocr.models.dbnet import DBNet
from ocr.training.cuda_graphs import GraphedForward

log = logging.getLogger(__name__)


def prepare_network(model: DBNet, settings: TrainerConfig) -> None:
    """Gives the network its memory format and its compiler, in place: the names in checkpoints stay."""
    if settings.channels_last:
        model.to(memory_format=torch.channels_last)
    if settings.compile:
        # Each shape by itself: after the first smaller batch torch would use kernels for any batch size, for all of them.
        model.compile(dynamic=False)


def forward_maps(model: DBNet, images: Tensor, channels_last: bool) -> DBMaps:
    """The maps of (B, 3, H, W) normalised images of any float type and memory format."""
    if not torch.is_autocast_enabled(images.device.type):
        images = images.to(next(model.parameters()).dtype)  # cached inputs are float16
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    return model(images)


class EvaluationForward:
    """The forward pass of evaluation.

    Where a change of the batch's size costs (torch.compile, CUDA graphs), a smaller batch, as the last one may be, is filled up and
    the maps of the filling are cut off. In evaluation the images of a batch do not see each other.

    Args:
        forward: maps of a batch, `forward_maps` of the network.
        model: the network that it calls.
        batch_size: of all batches but the last.
        device_type: cuda or cpu.
    """

    def __init__(
        self,
        forward: Callable[[Tensor], DBMaps],
        model: DBNet,
        settings: TrainerConfig,
        batch_size: int,
        device_type: str,
    ) -> None:
        self._batch_size = batch_size
        self._graphed: GraphedForward | None = None
        if settings.cuda_graphs and device_type == "cuda":
            self._graphed = GraphedForward(forward, lambda: chain(model.parameters(), model.buffers()))
        elif settings.cuda_graphs:
            log.warning("trainer.cuda_graphs has no effect on a CPU")
        self._forward = self._graphed or forward
        self._fills_up = settings.compile or self._graphed is not None

    def __call__(self, images: Tensor) -> DBMaps:
        """The maps of (B, 3, H, W) images; with CUDA graphs they are overwritten by the next call."""
        if not self._fills_up or len(images) >= self._batch_size:
            return self._forward(images)
        maps = self._forward(_filled_up(images, self._batch_size))
        return DBMaps(*(tensor[: len(images)] for tensor in maps))

    def release(self) -> None:
        """Frees what a CUDA graph holds; the next batch captures it again."""
        if self._graphed is not None:
            self._graphed.release()


def _filled_up(images: Tensor, batch_size: int) -> Tensor:
    """(batch_size, 3, H, W) in the memory format of the images; the last one is repeated. By copies, since torch.cat refuses
    float16 under an autocast to bfloat16 on a CPU."""
    in_pixels = images.is_contiguous(memory_format=torch.channels_last)
    filled = torch.empty(
        (batch_size, *images.shape[1:]),
        dtype=images.dtype,
        device=images.device,
        memory_format=torch.channels_last if in_pixels else torch.contiguous_format,
    )
    filled[: len(images)] = images
    filled[len(images) :] = images[-1]
    return filled
