"""The forward pass as a CUDA graph: captured once, then replayed with one launch instead of hundreds."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ocr.models.db_head import DBMaps

log = logging.getLogger(__name__)

NUM_WARM_UP = 3
"""Forward passes before the capture. In the first ones, libraries choose kernels and allocate, and torch.compile compiles."""

Forward = Callable[[Tensor], DBMaps]


@dataclass(frozen=True)
class Recording:
    """A captured forward pass: `replay` computes `maps` from the present content of `images`."""

    images: Tensor
    maps: DBMaps
    replay: Callable[[], None]


class GraphedForward:
    """Records a forward pass without gradients and replays the recording.

    The first batch is recorded. Batches of the same shape, type and memory format are replayed; all others run eagerly. The pass
    is recorded again when a weight has moved to other memory, or under another autocast. New values in the same memory need no
    new recording: the replay reads them.

    Args:
        forward: returns the maps of images; must never wait for the device, and must launch the same kernels each time.
        tensors: returns all weights and buffers that `forward` reads; called before each batch.
        record: creates a recording: `capture`, or a substitute in tests without a GPU.
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
        """Shape, type and layout of the recorded batch."""
        self._state: Any = None
        """Autocast and memory of the weights during the recording."""

    def __call__(self, images: Tensor) -> DBMaps:
        """Returns the maps of a batch. The next call may overwrite them.

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
        """Frees the recording and its memory; the next call records again."""
        self._recording = self._batch = self._state = None

    def _present_state(self, device_type: str) -> tuple[Any, ...]:
        autocast = torch.is_autocast_enabled(device_type) and torch.get_autocast_dtype(device_type)
        return (autocast, *((tensor.data_ptr(), tensor.dtype) for tensor in self._tensors()))


def _kind_of(images: Tensor) -> tuple[Any, ...]:
    return images.shape, images.dtype, images.stride(), images.device


def capture(forward: Forward, images: Tensor) -> Recording:
    """Returns a CUDA graph of a forward pass over batches like `images`.

    Raises:
        RuntimeError: an operation cannot be captured.
    """
    device = images.device
    autocast = torch.autocast(
        device.type,
        dtype=torch.get_autocast_dtype(device.type),
        enabled=torch.is_autocast_enabled(device.type),
        cache_enabled=False,  # the graph would read cached casts of weights, which are freed when the caller's autocast ends
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
            # thread_local: other threads may allocate (DALI) and wait for events (post-processing) during the capture.
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                maps = forward(static_images)
        except RuntimeError as error:
            raise RuntimeError(
                f"the forward pass for images of shape {tuple(images.shape)} cannot be captured as a CUDA graph ({error}); "
                "use trainer.cuda_graphs=false"
            ) from error
    log.info("captured the forward pass of evaluation as a CUDA graph, for batches of shape %s", tuple(images.shape))
    return Recording(static_images, maps, graph.replay)
