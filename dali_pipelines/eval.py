"""The evaluation graph of a GPU: longest side to `image_size`, padded to a square, nothing random. Every step is a DALI operator.

Without a GPU cpu.py takes its place; docs/architecture.md compares the two paths.
"""

from nvidia.dali import pipeline_def, types
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
    """Returns images, (3, image_size, image_size) in the configured layout, and the decoded images if `feed` wants them.

    dtype: float16 or float32 for normalised images, uint8 for RGB levels.
    on_gpu: as in `train_pipeline`.
    """
    source, kept = steps.receive(feed, steps.EvalSource)
    images = steps.load(source.path, kept, config, on_gpu, largest_stored, source.stored_size)
    resized = steps.resize(images, source.region_start, source.region_end, source.resized_size)
    finished = steps.finish(resized, config, config.image_size, dtype)
    return (finished, images) if feed.hands_out_images else finished
