"""The graph without a GPU, for training and evaluation: DALI reads and decodes, `rendering` resizes, warps and changes colours.

`normalize.ImageFinisher` then normalises, outside the graph. DALI's own CPU operators take 4.2 ms to resize a receipt, `rendering`
0.9 ms; rendering.py has the measurement. docs/architecture.md compares this path with the GPU's.
"""

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
    """Returns rendered images as uint8 HWC RGB levels, and the decoded images if `feed` wants them.

    Training crops have their final size; evaluation images keep their aspect ratio and are padded by `ImageFinisher`.
    """
    source: steps.EvalSource | steps.TrainSource
    if training:  # once, when the graph is built
        source, kept = steps.receive(feed, steps.TrainSource)
    else:
        source, kept = steps.receive(feed, steps.EvalSource)
    images = steps.load(source.path, kept, config, on_gpu=False)
    # DALI calls Python from its own thread while the consumer works on an earlier batch; each step releases the GIL.
    rendered = fn.python_function(
        images,
        *source[1:],
        function=partial(_training_crop, config.crop_size) if training else _resized,
        num_outputs=1,
        output_layouts="HWC",
    )
    return (rendered, images) if feed.hands_out_images else rendered


# DALI calls these two functions with images. The graph must neither call nor define them: AutoGraph rewrites the graph function and
# everything it calls, and a rewritten function takes 600 us for a crop of 64 pixels, all of it in Python, instead of 35 us.


def _resized(original: ImageArray, region_start: _Floats, region_end: _Floats, resized_size: _Floats) -> ImageArray:
    """Renders an evaluation image. The arguments after the first are the fields of `steps.EvalSource`."""
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
    """Renders a training crop. The arguments after the first two are the fields of `steps.TrainSource`."""
    resized = rendering.resize_region(original, _xyxy(region_start, region_end), _size(resized_size))
    warped = rendering.warp(resized, np.vstack([input_from_resized, (0, 0, 1)]), size)
    return rendering.recolour(warped, np.column_stack([colour_matrix, colour_offset]))


def _xyxy(start: _Floats, end: _Floats) -> _Floats:
    return np.concatenate([start[::-1], end[::-1]])


def _size(height_width: _Floats) -> tuple[int, int]:
    return int(height_width[0]), int(height_width[1])
