"""A network's forward pass as a CUDA graph: captured once, then replayed with one launch in place of hundreds."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ocr.models.db_head import DBMaps

log = logging.getLogger(__name__)

NUM_WARM_UP = 3
"""Forward passes before the capture: libraries choose kernels and allocate in the first ones, torch.compile compiles."""

Forward = Callable[[Tensor], DBMaps]


@dataclass(frozen=True)
class Recording:
    """A captured forward pass: `replay` computes `maps` from what is in `images` then."""

    images: Tensor
    maps: DBMaps
    replay: Callable[[], None]


class GraphedForward:
    """Calls a forward pass, without gradients, as a recording of it.

    The first batch is recorded; batches of its shape, type and memory format are replayed, all others run eagerly. It is recorded
    anew when a weight has moved to other memory (new values in the same memory are what a replay computes with), or under
    another autocast.

    Args:
        forward: any images -> maps that waits for nothing and launches the same kernels each time.
        tensors: all weights and buffers that it reads; called before each batch.
        record: makes a recording; `capture`, or a stand-in where there is no GPU.
    """

    def __init__(
        self,
        forward: Forward,
        tensors: Callable[[], Iterable[Tensor]],
        record: "Callable[[Forward, Tensor], Recording] | None" = None,
    ) -> None:
        self._forward, self._tensors = forward, tensors
        self._record = record or capture
        self._recording: Recording | None = None
        self._batch: Any = None
        """What a batch has to be for the recording to take it."""
        self._state: Any = None
        """What the recording was made under."""

    def __call__(self, images: Tensor) -> DBMaps:
        """The maps of a batch. Those of a replayed one are overwritten by the next call.

        Raises:
            RuntimeError: the forward pass cannot be captured.
        """
        state, batch = self._present_state(images.device.type), _kind_of(images)
        if self._recording is None or state != self._state:
            self.release()
            self._recording = self._record(self._forward, images)
            self._batch, self._state = batch, state
        if batch != self._batch:
            return self._forward(images)
        self._recording.images.copy_(images)
        self._recording.replay()
        return self._recording.maps

    def release(self) -> None:
        """Frees the recording and its memory; the next call makes another."""
        self._recording = self._batch = self._state = None

    def _present_state(self, device_type: str) -> tuple[Any, ...]:
        autocast = torch.is_autocast_enabled(device_type) and torch.get_autocast_dtype(device_type)
        return (autocast, *((tensor.data_ptr(), tensor.dtype) for tensor in self._tensors()))


def _kind_of(images: Tensor) -> tuple[Any, ...]:
    return images.shape, images.dtype, images.stride(), images.device


def capture(forward: Forward, images: Tensor) -> Recording:
    """A CUDA graph of a forward pass over batches like `images`.

    Raises:
        RuntimeError: an operation cannot be captured.
    """
    device = images.device
    autocast = torch.autocast(
        device.type,
        dtype=torch.get_autocast_dtype(device.type),
        enabled=torch.is_autocast_enabled(device.type),
        cache_enabled=False,  # a weight cast before would be read from memory that is freed when the caller's autocast ends
    )
    # Not in inference mode: a tensor made there cannot be written to outside it.
    with torch.cuda.device(device), torch.inference_mode(False), torch.no_grad(), autocast:
        static_images = torch.empty_like(images)
        static_images.copy_(images)
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(NUM_WARM_UP):
                forward(static_images)
        torch.cuda.current_stream(device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        try:
            # thread_local: DALI's threads allocate, and those of post-processing wait for events, while this one captures.
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                maps = forward(static_images)
        except RuntimeError as error:
            raise RuntimeError(
                f"the forward pass of {tuple(images.shape)} cannot be captured as a CUDA graph ({error}); "
                "trainer.cuda_graphs=false runs without"
            ) from error
    log.info("the forward pass of evaluation is captured as a CUDA graph for batches of shape %s", tuple(images.shape))
    return Recording(static_images, maps, graph.replay)
