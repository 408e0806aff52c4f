"""Both graphs as they run without a GPU: DALI reads and decodes, `rendering` does the rest."""

from functools import partial

import numpy as np
import numpy.typing as npt
from nvidia.dali import fn, pipeline_def
from nvidia.dali.data_node import DataNode

from dali_pipelines import rendering, steps
from dali_pipelines.config import PipelineConfig
from dali_pipelines.rendering import ImageArray

_Floats = npt.NDArray[np.float32]


@pipeline_def(enable_conditionals=True)
def cpu_pipeline(feed: steps.Feed, config: PipelineConfig, training: bool) -> DataNode | tuple[DataNode, DataNode]:
    """Rendered images, RGB levels, uint8 HWC, as `normalize.ImageFinisher` takes them: the crops of training, or images of
    their own sizes, not yet padded. And the decoded images they were made from, if `feed` says so."""
    source: steps.EvalSource | steps.TrainSource
    if training:  # once, when the graph is built
        source, kept = steps.receive(feed, steps.TrainSource)
    else:
        source, kept = steps.receive(feed, steps.EvalSource)
    images = steps.load(source.path, kept, config, on_gpu=False)
    # DALI calls Python from its own thread, while the consumer works on an earlier batch; each step releases the GIL.
    rendered = fn.python_function(
        images,
        *source[1:],
        function=partial(_training_crop, config.crop_size) if training else _resized,
        num_outputs=1,
        output_layouts="HWC",
    )
    return (rendered, images) if feed.hands_out_images else rendered


# DALI calls these two with images. The graph must not call them, nor make them: it is traced for nodes, with all that it calls,
# and what is traced takes 600 us for a crop of 64 pixels, all of them in Python, instead of 35.


def _resized(original: ImageArray, region_start: _Floats, region_end: _Floats, resized_size: _Floats) -> ImageArray:
    """The arguments but the first are those of `steps.EvalSource`."""
    return rendering.resize_whole(original, _xyxy(region_start, region_end), _size(resized_size))


def _training_crop(
    size: int,
    original: ImageArray,
    region_start: _Floats,
    region_end: _Floats,
    resized_size: _Floats,
    input_from_resized: _Floats,
    colour_matrix: _Floats,
    colour_offset: _Floats,
) -> ImageArray:
    """The arguments but the first two are those of `steps.TrainSource`."""
    resized = rendering.resize_region(original, _xyxy(region_start, region_end), _size(resized_size))
    warped = rendering.warp(resized, np.vstack([input_from_resized, (0, 0, 1)]), size)
    return rendering.recolour(warped, np.column_stack([colour_matrix, colour_offset]))


def _xyxy(start: _Floats, end: _Floats) -> _Floats:
    return np.concatenate([start[::-1], end[::-1]])


def _size(height_width: _Floats) -> tuple[int, int]:
    return int(height_width[0]), int(height_width[1])
