"""The graph that only decodes: it tells a damaged file from an error of the other steps."""

from nvidia.dali import fn, pipeline_def
from nvidia.dali.data_node import DataNode

from dali_pipelines import steps
from dali_pipelines.config import PipelineConfig


@pipeline_def(enable_conditionals=True)
def decode_pipeline(next_batch: steps.NextBatch, config: PipelineConfig, on_gpu: bool, is_path: bool) -> DataNode:
    """Returns the decoded images, uint8 HWC. `next_batch` gives one list of arrays: file names or contents, as bytes."""
    (path_or_content,) = fn.external_source(source=next_batch, num_outputs=1, batch=True)
    return steps.decode(steps.read(path_or_content) if is_path else path_or_content, config, on_gpu)
