"""The steps that the training and the evaluation graph share. Each takes and returns DALI nodes; all run on CPU and GPU."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy.typing as npt
from nvidia.dali import fn, types
from nvidia.dali.data_node import DataNode

from dali_pipelines.config import PipelineConfig


class EvalSource(NamedTuple):
    """What the host hands the evaluation graph per sample: numbers and a file name, never pixels."""

    path: DataNode
    """UTF-8 bytes of the file name, uint8."""
    region_start: DataNode
    """(2,) float32 (y, x) in the original image's pixels."""
    region_end: DataNode
    resized_size: DataNode
    """(2,) float32 (H, W)."""


class TrainSource(NamedTuple):
    """What the host hands the training graph per sample: the first four as in `EvalSource`."""

    path: DataNode
    region_start: DataNode
    region_end: DataNode
    resized_size: DataNode
    input_from_resized: DataNode
    """(2, 3) float32."""
    colour_matrix: DataNode
    """(3, 3) float32 on RGB levels."""
    colour_offset: DataNode
    """(3,) float32, levels."""


Arrays = list[npt.NDArray[Any]]
NextBatch = Callable[[], tuple[Arrays, ...]]
SourceType = TypeVar("SourceType", EvalSource, TrainSource)


def receive(next_batch: NextBatch, source_type: type[SourceType]) -> SourceType:
    """The nodes fed by `next_batch`, which gives one list of arrays for each field and raises StopIteration at the end."""
    return source_type(*fn.external_source(source=next_batch, num_outputs=len(source_type._fields), batch=True))


def read(path: DataNode) -> DataNode:
    """The bytes of the file whose name `path` holds as UTF-8 (uint8); read in C++, not in Python. `s3://` works too."""
    return fn.io.file.read(path)


def decode(encoded: DataNode, config: PipelineConfig, on_gpu: bool) -> DataNode:
    """RGB uint8 HWC, turned upright by EXIF. RGB is asked for outright: DALI 2.4 crashes on grey JPEGs with ANY_DATA."""
    if not on_gpu:  # runs once, when the graph is built
        return fn.decoders.image(
            encoded, output_type=types.RGB, adjust_orientation=True, jpeg_fancy_upsampling=config.jpeg_fancy_upsampling
        )
    return fn.decoders.image(
        encoded,
        device="mixed",
        output_type=types.RGB,
        adjust_orientation=True,
        jpeg_fancy_upsampling=config.jpeg_fancy_upsampling,
        hw_decoder_load=config.hw_decoder_load,
    )


def resize(images: DataNode, region_start: DataNode, region_end: DataNode, resized_size: DataNode) -> DataNode:
    """The region, given by its (y, x) corners in pixels, resized to (H, W) with an antialiased triangle filter."""
    return fn.resize(
        images,
        size=resized_size,
        roi_start=region_start,
        roi_end=region_end,
        interp_type=types.INTERP_LINEAR,
        antialias=True,
    )


def warp(images: DataNode, input_from_resized: DataNode, size: int) -> DataNode:
    """A square of `size` pixels; what lies outside the image is black. The scale is done before, so no filter is needed."""
    return fn.warp_affine(
        images,
        matrix=input_from_resized,
        size=(size, size),
        inverse_map=False,  # the forward matrix, the same that moves the polygons
        interp_type=types.INTERP_LINEAR,
        fill_value=0,
    )


def recolour(images: DataNode, colour_matrix: DataNode, colour_offset: DataNode) -> DataNode:
    """Brightness, contrast, saturation and hue as one 3x3 matrix and offset on RGB levels, clamped to uint8."""
    return fn.coord_transform(images, M=colour_matrix, T=colour_offset, dtype=types.UINT8)


def normalize(images: DataNode, config: PipelineConfig, size: int, dtype: types.DALIDataType) -> DataNode:
    """(x - mean) / std as CHW, padded with black to a square of `size` pixels, right and below."""
    return fn.crop_mirror_normalize(
        images,
        crop=(size, size),
        crop_pos_x=0,
        crop_pos_y=0,
        out_of_bounds_policy="pad",
        fill_values=config.black,  # DALI applies these after the normalisation
        mean=config.mean,
        std=config.std,
        dtype=dtype,
        output_layout="CHW",
    )
