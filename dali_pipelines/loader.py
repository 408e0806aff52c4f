"""Runs an epoch's plan through DALI: exact length, restart at any step, errors that name the file."""

import logging
from collections.abc import Iterator

import torch
from nvidia.dali.pipeline import Pipeline

from dali_pipelines.allocation_errors import reraise_if_out_of_memory
from dali_pipelines.config import PipelineConfig
from dali_pipelines.feed import BatchFeed, Inputs, SampleArrays
from dali_pipelines.graphs import GraphBuilder
from dali_pipelines.normalize import input_dtype
from dali_pipelines.outputs import CpuOutputs, GpuOutputs, Outputs
from dali_pipelines.plan_chain import PlanChain
from dali_pipelines.recovery import BatchRecovery
from dali_pipelines.source import ImageBatch, PlannedBatch, PlannedBatches, SourceImages

log = logging.getLogger(__name__)

_MEMORY_FORMAT = {"CHW": torch.contiguous_format, "HWC": torch.channels_last}


class DaliLoader:
    """Runs an epoch's plan through DALI.

    `batches(plan, first_step)` starts anywhere, also after an earlier iteration was abandoned: batches that DALI had prepared are
    drained first. The plan decides on order, shards and the last batch. The first call of `batches` creates the pipeline with its
    threads and memory.

    During the last batches of a plan DALI prepares the first ones of `plan.following`. If the next call of `batches` is for a plan
    equal to that, from its first step on, it continues with them. Otherwise they are drained as well.

    Args:
        training: the training graph (crop, warp, colour) or the evaluation graph (letterbox).
        batch_size: the largest batch of the plan.
        device: cpu, or cuda with an index.
        skip_failures: a file that cannot be decoded, or does not have the planned size, loses its slot and is listed in
            `failures`; otherwise SampleError.
        levels: images are uint8 RGB levels, not normalised; evaluation only.
        failures: receives the reason for each file that fails; None: a new dict, `failures`.
    """

    def __init__(
        self,
        images: SourceImages,
        config: PipelineConfig,
        *,
        training: bool,
        batch_size: int,
        device: torch.device,
        skip_failures: bool = True,
        levels: bool = False,
        failures: dict[str, str] | None = None,
    ) -> None:
        if levels and training:
            raise ValueError("levels=True gives evaluation inputs, but this loader has training=True")
        self.images = images
        self.config = config
        self.training = training
        self.batch_size = batch_size
        self.device = device
        self.skip_failures = skip_failures
        self.failures: dict[str, str] = {} if failures is None else failures
        """Reason for each file that failed during iteration."""
        normalised_dtype = input_dtype(config, device.type)
        self.dtype = torch.uint8 if levels else normalised_dtype
        self._graphs = GraphBuilder(config, training, device, self.dtype, images.largest_stored)
        on_cpu = device.type == "cpu"
        on_cpu_fed: Inputs = "contents" if config.scaled_decode else "images"
        self._arrays = SampleArrays(
            images,
            training=training,
            inputs=on_cpu_fed if on_cpu else "planned",
            in_perspective=config.in_perspective,
            max_pixels=config.max_batch_megapixels * 1e6,
        )
        self._feed = BatchFeed(self._arrays)
        self._num_ahead = config.prefetch_queue_depth + 2
        self._iteration: object | None = None
        """Stands for the iteration that may go on; None: none may."""
        self._chain: PlanChain | None = None
        """Plans that DALI is being fed, after the last batch of a plan was handed out and a later plan has begun; else None."""
        self._pipeline: Pipeline | None = None
        self._alone: tuple[BatchFeed, Pipeline] | None = None
        """A pipeline for batches of one, built for the first failed batch and kept until it fails itself."""
        self._outputs: Outputs = (
            CpuOutputs(images, config, training, self.dtype) if on_cpu else GpuOutputs(images, config, device)
        )

    def batches(self, plan: PlannedBatches, first_step: int = 0) -> Iterator[ImageBatch]:
        """Yields the batches of `plan` from `first_step` on.

        A file that has failed before is left out of its batch: its slot stays, black and marked. It is tried again once it has
        changed; see `feed.FailedFiles`.
        """
        chain = self._chain if self.has_prepared(plan, first_step) else None
        if chain is None:
            self.stop()
            self._drain()
        else:
            chain.begun.pop(0)
        self._arrays.failed_files.start_pass()
        self._chain = None
        self._iteration = iteration = object()
        try:
            for batch in self._rendered(plan, first_step, chain):
                yield batch
                if self._iteration is not iteration:
                    return
        finally:
            if self._iteration is iteration and self._chain is None:
                self.stop()

    def has_prepared(self, plan: PlannedBatches, first_step: int = 0) -> bool:
        """Returns whether `batches` would continue with batches that DALI has begun to prepare."""
        if self._chain is None or first_step != 0 or self._arrays.failed_files.would_retry():
            return False
        return self._chain.begun[0] == plan

    def stop(self) -> None:
        """Ends the current iteration, and the thread that plans its batches and those of the following plan."""
        self._iteration = self._chain = None
        self._feed.stop()

    def release(self) -> None:
        """Ends the current iteration and frees the pipelines' threads and memory. The next iteration builds a new pipeline."""
        self.stop()
        self._drop_pipeline()
        self._alone = None
        self._outputs.release()

    def _rendered(self, plan: PlannedBatches, first_step: int, chain: PlanChain | None) -> Iterator[ImageBatch]:
        """Yields the batches of a plan. With a chain DALI is fed them already."""
        step = first_step
        while step < len(plan):
            if chain is None:
                self._ready_pipeline()
                chain = PlanChain(plan, step)
                self._feed.start(chain.batches(), self._num_ahead)
            try:
                while step < len(plan):
                    batch = self._next_batch(len(plan) - step + chain.num_later)
                    step += 1
                    if step == len(plan) and chain.begun:
                        self._chain = chain  # before the last batch: the consumer may end this generator with it
                    yield batch
            except RuntimeError as error:
                reraise_if_out_of_memory(error)
                # DALI calls a pipeline invalid after an error: this batch is redone sample by sample, the others by a new pipeline.
                log.warning("DALI failed on batch %d of epoch %d; redoing it sample by sample", step, plan.epoch)
                self._drop_pipeline()
                chain = None
                yield self._redo(plan.batch(step), error)
                step += 1

    def _drop_pipeline(self) -> None:
        self._feed.stop()
        self._pipeline = None
        self._outputs.forget()

    def _ready_pipeline(self) -> Pipeline:
        if self._pipeline is None:
            self._feed = BatchFeed(self._arrays)
            self._pipeline = self._graphs.build(self._feed.for_graph(), self.batch_size)
        return self._pipeline

    def _next_batch(self, num_left: int) -> ImageBatch:
        images, batch = self._outputs.next_batch(self._ready_pipeline(), self._feed, num_left)
        self._arrays.failed_files.note_rendered(batch.fed)
        if len(batch.rows) == len(batch.samples):
            return ImageBatch(images, batch.samples)
        whole = self._black_images(len(batch.samples))
        for place, row in enumerate(batch.rows):  # `whole[batch.rows]` would copy the list to a GPU and wait for it
            whole[row] = images[place]
        for row in batch.alone:
            whole[row] = self._render_alone(batch.samples.select([row]))
        left_out = [row for row in range(len(batch.samples)) if row not in batch.rows and row not in batch.alone]
        return ImageBatch(whole, batch.samples.with_failed(left_out))

    def _drain(self) -> None:
        """Discards the batches prepared for an earlier or a following iteration, so that the pipeline can start again."""
        self._outputs.forget()
        self._feed.stop()
        if self._pipeline is not None:
            try:
                _end_epoch(self._pipeline)
            except RuntimeError:  # a damaged file among the abandoned batches
                self._drop_pipeline()

    def _redo(self, samples: PlannedBatch, error: RuntimeError) -> ImageBatch:
        recovery = BatchRecovery(
            self._arrays, self._graphs, self._render_alone, self.failures, skip_failures=self.skip_failures
        )
        return recovery.redo(samples, self._black_images(len(samples)), error)

    def _render_alone(self, sample: PlannedBatch) -> torch.Tensor:
        """Returns the image of a batch of one, (3, H, W). An error invalidates the pipeline; the next call builds another."""
        if self._alone is None:
            feed = BatchFeed(self._arrays)
            self._alone = (feed, self._graphs.build(feed.for_graph(), batch_size=1))
        feed, pipeline = self._alone
        self._alone = None  # until this sample has come through
        feed.start(iter([sample]), num_ahead=1)
        images = self._outputs.take_now(pipeline, feed)
        feed.stop()
        _end_epoch(pipeline)
        self._alone = (feed, pipeline)
        return images[0]

    def _black_images(self, num_images: int) -> torch.Tensor:
        size = self.config.input_size(self.training)
        black = (0, 0, 0) if self.dtype == torch.uint8 else self.config.black
        # With device=, torch.tensor would wait for a GPU.
        pixel = torch.tensor(black, dtype=self.dtype).to(self.device, non_blocking=True)[:, None, None]
        images = pixel.expand(num_images, 3, size, size)
        return images.clone(memory_format=_MEMORY_FORMAT[self.config.output_layout])


def _end_epoch(pipeline: Pipeline) -> None:
    """Discards what DALI has prepared, after its sources have ended, so that the pipeline can start again."""
    while True:
        try:
            pipeline.run()
        except StopIteration:
            pipeline.reset()
            return
