"""From the output of a DALI pipeline to finished images: rendered in threads on a CPU, copied out of DALI's memory on a GPU."""

from dataclasses import replace
from functools import partial
from typing import Protocol

import numpy as np
import torch
from nvidia.dali import types
from nvidia.dali.pipeline import Pipeline
from nvidia.dali.plugin.pytorch import feed_ndarray, to_torch_type

from dali_pipelines.config import PipelineConfig, default_num_threads
from dali_pipelines.feed import BatchFeed, FedBatch
from dali_pipelines.normalize import ImageFinisher
from dali_pipelines.rendering import ImageArray, render
from dali_pipelines.scaled import render_file
from dali_pipelines.source import PlannedBatch, PlannedSample, SourceImages
from dali_pipelines.threads import DecodedBatch, RenderingThreads


class Outputs(Protocol):
    """Takes batches out of the pipelines of one split."""

    def next_batch(self, pipeline: Pipeline, feed: BatchFeed, num_left: int) -> tuple[torch.Tensor, FedBatch]:
        """Returns the finished images of the next batch, (B, 3, size, size), on the loader's device, and the batch.

        Args:
            num_left: batches of the pipeline that this method has not returned yet; more may follow.

        Raises:
            RuntimeError: the batch could not be decoded or rendered.
        """

    def take_now(self, pipeline: Pipeline, feed: BatchFeed) -> torch.Tensor:
        """Returns the finished images of the only batch of a pipeline, while batches of another one are under way.

        Raises:
            RuntimeError: the batch could not be decoded or rendered.
        """

    def forget(self) -> None:
        """Drops the batches that were taken from a pipeline and not returned."""

    def release(self) -> None:
        """Drops these batches, and ends the threads."""


class CpuOutputs:
    """The outputs of a CPU's pipelines: decoded images or, with `scaled_decode`, files, which threads render and finish."""

    def __init__(self, images: SourceImages, config: PipelineConfig, training: bool, dtype: torch.dtype) -> None:
        self._images, self._config, self._training = images, config, training
        finisher = ImageFinisher(
            config.input_size(training), config.mean, config.std, dtype, layout=config.output_layout
        )
        render_one = self._render_file if config.scaled_decode else self._render
        self._threads = RenderingThreads(render_one, finisher, config.num_threads or default_num_threads())

    def next_batch(self, pipeline: Pipeline, feed: BatchFeed, num_left: int) -> tuple[torch.Tensor, FedBatch]:
        images, decoded = self._threads.next_batch(partial(_decoded, pipeline, feed), num_left)
        return images, decoded.fed

    def take_now(self, pipeline: Pipeline, feed: BatchFeed) -> torch.Tensor:
        return self._threads.render_now(_decoded(pipeline, feed))

    def forget(self) -> None:
        self._threads.forget()

    def release(self) -> None:
        self._threads.release()

    def _render(self, decoded: ImageArray, sample: PlannedSample) -> ImageArray:
        """Returns a rendered image; the decoded image goes to `images.kept` if that wants it. Runs in several threads."""
        # A GPU's graph takes its matrices as float32, and a seeded run is to repeat bit for bit: the same matrix here.
        in_float32 = replace(sample, input_from_resized=sample.input_from_resized.astype(np.float32))
        planned_with = self._images.upright_size(sample.index)
        rendered = render(decoded, in_float32, self._config, training=self._training, upright_size=planned_with)
        kept = self._images.kept
        if kept is not None and kept.wants(sample.index):
            kept.keep(sample.index, torch.from_numpy(np.require(decoded, requirements="W")))
        return rendered

    def _render_file(self, encoded: ImageArray, sample: PlannedSample) -> ImageArray:
        """Returns a rendered image from the content of its file. Runs in several threads."""
        stored = self._images.stored_image(sample.index)
        return render_file(encoded, stored, sample, self._config, training=self._training)


def _decoded(pipeline: Pipeline, feed: BatchFeed) -> DecodedBatch:
    """Returns the next batch that DALI has decoded, or read, on a CPU. Its images stay valid when DALI goes on."""
    (decoded,) = pipeline.run()
    batch = feed.pop()
    return DecodedBatch([np.asarray(image) for image in decoded], batch.fed, batch)


class GpuOutputs:
    """The outputs of a GPU's pipelines: finished images, and decoded ones where the graph hands them out too."""

    def __init__(self, images: SourceImages, config: PipelineConfig, device: torch.device) -> None:
        self._images, self._config, self._device = images, config, device

    def next_batch(self, pipeline: Pipeline, feed: BatchFeed, num_left: int) -> tuple[torch.Tensor, FedBatch]:
        # Given the consumer's stream, DALI has that stream wait for the outputs. Without it, this thread would wait for them.
        # Either way the outputs stay in the order of DALI's own stream, in which their memory is reused.
        finished, *decoded = pipeline.run(self._stream())
        batch = feed.pop()
        for images in decoded:
            self._keep(images, batch.fed)
        on_gpu = self._to_torch(finished.as_tensor())
        return on_gpu.permute(0, 3, 1, 2) if self._config.output_layout == "HWC" else on_gpu, batch

    def take_now(self, pipeline: Pipeline, feed: BatchFeed) -> torch.Tensor:
        return self.next_batch(pipeline, feed, num_left=1)[0]

    def forget(self) -> None:
        """Has nothing to drop: no batch is taken before it is returned."""

    def release(self) -> None:
        """Has no threads."""

    def _keep(self, decoded: "types.TensorList", samples: PlannedBatch) -> None:
        kept = self._images.kept
        for slot, index in enumerate(samples.indices.tolist()):
            if kept is not None and kept.wants(index):
                kept.keep(index, self._to_torch(decoded[slot]))  # only queues the copy

    def _to_torch(self, dense: "types.Tensor") -> torch.Tensor:
        """Returns a copy on the loader's device, made in the consumer's stream. This thread does not wait for it.

        DALI's stream waits for the copy, so that the memory is not reused before. The copy in turn follows all work that the
        consumer has queued: DALI's GPU work for later batches starts no earlier than the consumer's present work ends.
        """
        output = torch.empty(dense.shape(), dtype=to_torch_type[dense.dtype], device=self._device)
        return feed_ndarray(dense, output, cuda_stream=self._stream())

    def _stream(self) -> torch.cuda.Stream:
        """Returns the consumer's CUDA stream."""
        return torch.cuda.current_stream(self._device)
