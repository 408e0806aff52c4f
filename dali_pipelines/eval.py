"""The evaluation graph: nothing random, no rotation; longest side to `image_size`, padded to a square. On a GPU: on_cpu.py
has the one that runs without."""

from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.data_node import DataNode

from dali_pipelines import steps
from dali_pipelines.config import PipelineConfig


@pipeline_def(enable_conditionals=True)
def eval_pipeline(
    feed: steps.Feed,
    config: PipelineConfig,
    on_gpu: bool,
    dtype: types.DALIDataType,
    largest_stored: tuple[int, int] | None = None,
) -> DataNode | tuple[DataNode, DataNode]:
    """Images, (3, image_size, image_size) or with the channels last: normalised, or levels if `dtype` is uint8; and the decoded
    images they were made from, if `feed` says so."""
    source, kept = steps.receive(feed, steps.EvalSource)
    images = steps.load(source.path, kept, config, on_gpu, largest_stored)
    resized = steps.resize(images, source.region_start, source.region_end, source.resized_size)
    finished = steps.finish(resized, config, config.image_size, dtype)
    return (finished, images) if feed.hands_out_images else finished


@pipeline_def
def decode_pipeline(next_batch: steps.NextBatch, config: PipelineConfig, on_gpu: bool, is_path: bool) -> DataNode:
    """The decoded images alone, as the audit of a failed batch needs them. `next_batch` gives one list of arrays: the bytes
    of paths or of files."""
    (given,) = fn.external_source(source=next_batch, num_outputs=1, batch=True)
    return steps.decode(steps.read(given) if is_path else given, config, on_gpu)
