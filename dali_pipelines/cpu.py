"""The graph without a GPU, for training and evaluation: DALI reads and decodes.

`threads.RenderingThreads` then renders the images, outside the graph. DALI's own CPU operators are
slower; rendering.py has the measurement. docs/architecture.md compares this path with the GPU's.
"""

from nvidia.dali import pipeline_def
from nvidia.dali.data_node import DataNode

from dali_pipelines import steps
from dali_pipelines.config import PipelineConfig


@pipeline_def(enable_conditionals=True)
def cpu_pipeline(feed: steps.Feed, config: PipelineConfig) -> DataNode:
    """Returns upright RGB images, uint8 HWC; with `scaled_decode` the content of their files, uint8, which `scaled` decodes."""
    source, kept = steps.receive(feed, steps.FileSource)
    if config.scaled_decode:  # once, when the graph is built
        return steps.content(source.path, kept)
    return steps.load(source.path, kept, config, on_gpu=False)
