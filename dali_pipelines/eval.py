"""The evaluation graph: nothing random, no rotation; longest side to `image_size`, padded to a square."""

from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.data_node import DataNode

from dali_pipelines import steps
from dali_pipelines.config import PipelineConfig


@pipeline_def
def eval_pipeline(
    next_batch: steps.NextBatch, config: PipelineConfig, on_gpu: bool, dtype: types.DALIDataType
) -> DataNode:
    """Normalised images, (3, image_size, image_size). `next_batch`: see `steps.receive`."""
    source = steps.receive(next_batch, steps.EvalSource)
    images = steps.decode(steps.read(source.path), config, on_gpu)
    images = steps.resize(images, source.region_start, source.region_end, source.resized_size)
    return steps.normalize(images, config, config.image_size, dtype)


@pipeline_def
def decode_pipeline(next_batch: steps.NextBatch, config: PipelineConfig, on_gpu: bool) -> DataNode:
    """The decoded images alone, as the audit of a failed batch needs them. `next_batch` gives one list of path bytes."""
    (path,) = fn.external_source(source=next_batch, num_outputs=1, batch=True)
    return steps.decode(steps.read(path), config, on_gpu)
