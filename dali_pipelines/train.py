"""The training graph of a GPU: every step runs as a DALI operator on the device. It executes the plan's numbers and draws none.

Without a GPU cpu.py takes its place; docs/architecture.md compares the two paths.
"""

from nvidia.dali import pipeline_def, types
from nvidia.dali.data_node import DataNode

from dali_pipelines import steps
from dali_pipelines.config import PipelineConfig


@pipeline_def(enable_conditionals=True)
def train_pipeline(
    feed: steps.Feed,
    config: PipelineConfig,
    on_gpu: bool,
    dtype: types.DALIDataType,
    largest_stored: tuple[int, int] | None = None,
) -> DataNode | tuple[DataNode, DataNode]:
    """Returns normalised crops, (3, crop_size, crop_size) in the configured layout, and the decoded images if `feed` wants them.

    on_gpu: False runs DALI's own operators on the CPU; only the tests do that, to check cpu.py against them.
    """
    source, kept = steps.receive(feed, steps.TrainSource)
    images = steps.load(source.path, kept, config, on_gpu, largest_stored, source.stored_size)
    resized = steps.resize(images, source.region_start, source.region_end, source.resized_size)
    warped = steps.warp(resized, source.input_from_resized, config.crop_size, config.in_perspective)
    recoloured = steps.recolour(warped, source.colour_matrix, source.colour_offset)
    finished = steps.finish(recoloured, config, config.crop_size, dtype)
    return (finished, images) if feed.hands_out_images else finished
