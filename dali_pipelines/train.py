"""The training graph: it executes the plan's numbers and draws none of its own."""

from nvidia.dali import pipeline_def, types
from nvidia.dali.data_node import DataNode

from dali_pipelines import steps
from dali_pipelines.config import PipelineConfig


@pipeline_def
def train_pipeline(
    next_batch: steps.NextBatch, config: PipelineConfig, on_gpu: bool, dtype: types.DALIDataType
) -> DataNode:
    """Normalised crops, (3, crop_size, crop_size). `next_batch`: see `steps.receive`."""
    source = steps.receive(next_batch, steps.TrainSource)
    images = steps.decode(steps.read(source.path), config, on_gpu)
    images = steps.resize(images, source.region_start, source.region_end, source.resized_size)
    images = steps.warp(images, source.input_from_resized, config.crop_size)
    images = steps.recolour(images, source.colour_matrix, source.colour_offset)
    return steps.normalize(images, config, config.crop_size, dtype)
