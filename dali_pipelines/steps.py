"""The steps that the training and the evaluation graph share. Each takes and returns DALI nodes; all run on CPU and GPU."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy.typing as npt
import torch
from nvidia.dali import fn, types
from nvidia.dali.data_node import DataNode

from dali_pipelines.config import PipelineConfig


class EvalSource(NamedTuple):
    """What the host hands the evaluation graph per sample: numbers and a file name."""

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


class KeptSource(NamedTuple):
    """What the host hands over beside that where images are kept in memory; a placeholder where one is not."""

    encoded: DataNode
    """(n,) uint8, the content of the file."""
    is_encoded: DataNode
    """Scalar bool: `encoded` is to be decoded, no file read."""
    is_decoded: DataNode
    """Scalar bool: `pixels` are the image, nothing is read or decoded."""
    pixels: DataNode
    """(H, W, 3) uint8."""


Arrays = Sequence[npt.NDArray[Any] | torch.Tensor]
NextBatch = Callable[[], tuple[Arrays, ...]]
SourceType = TypeVar("SourceType", EvalSource, TrainSource)


@dataclass(frozen=True)
class Feed:
    """Where a graph's batches come from. Each function gives one list of arrays for each field of a source and raises
    StopIteration at the end; each sees every batch once, and no order among them is promised."""

    next_batch: NextBatch
    """For `EvalSource` or `TrainSource`."""
    next_kept: NextBatch | None = None
    """For `KeptSource` but its last field; None: images come from files alone."""
    next_pixels: NextBatch | None = None
    """For the last field of `KeptSource`."""
    pixels_on_gpu: bool = False
    hands_out_images: bool = False
    """Whether the decoded images are a second output of the graph, for someone to keep them."""


def receive(feed: Feed, source_type: type[SourceType]) -> tuple[SourceType, KeptSource | None]:
    """The nodes that `feed` fills."""
    source = source_type(*fn.external_source(source=feed.next_batch, num_outputs=len(source_type._fields), batch=True))
    if feed.next_kept is None:
        return source, None
    # no_copy: what is kept is never written again and outlives the pipeline. Handing over the pixels of a receipt takes 4 us
    # that way, and 157 us with a copy.
    kept = fn.external_source(source=feed.next_kept, num_outputs=3, batch=True, no_copy=True)
    pixels = fn.external_source(
        source=feed.next_pixels,
        num_outputs=1,
        batch=True,
        no_copy=True,
        layout="HWC",
        device="gpu" if feed.pixels_on_gpu else "cpu",
    )
    return source, KeptSource(*kept, *pixels)


def load(
    path: DataNode,
    kept: KeptSource | None,
    config: PipelineConfig,
    on_gpu: bool,
    largest_stored: tuple[int, int] | None = None,
) -> DataNode:
    """Upright RGB images, uint8 HWC, each from where it is: its file, the file's content in memory, or pixels.

    The first condition and `on_gpu` are decided once, when the graph is built; those on nodes of `kept` sample by sample,
    which needs a graph with `enable_conditionals`.
    """
    if kept is None:
        return decode(read(path), config, on_gpu, largest_stored)
    if kept.is_decoded:
        images = kept.pixels.gpu() if on_gpu else kept.pixels
    else:
        if kept.is_encoded:  # noqa: SIM108  # DALI takes conditions on nodes in statements only
            encoded = kept.encoded
        else:
            encoded = read(path)
        images = decode(encoded, config, on_gpu, largest_stored)
    return images


def read(path: DataNode) -> DataNode:
    """The bytes of the file whose name `path` holds as UTF-8 (uint8); read in C++, not in Python. `s3://` works too."""
    return fn.io.file.read(path)


def decode(
    encoded: DataNode, config: PipelineConfig, on_gpu: bool, largest_stored: tuple[int, int] | None = None
) -> DataNode:
    """RGB uint8 HWC, turned upright by EXIF. RGB is asked for outright: DALI 2.4 crashes on grey JPEGs with ANY_DATA.

    largest_stored: (H, W) that no file exceeds, before it is turned upright, as the JPEG engines see it; None: not known.
    """
    if not on_gpu:  # runs once, when the graph is built
        return fn.decoders.image(
            encoded, output_type=types.RGB, adjust_orientation=True, jpeg_fancy_upsampling=config.jpeg_fancy_upsampling
        )
    height, width = (largest_stored if config.preallocate_decoder else None) or (0, 0)  # 0: DALI's default, no hint
    return fn.decoders.image(
        encoded,
        device="mixed",
        output_type=types.RGB,
        adjust_orientation=True,
        jpeg_fancy_upsampling=config.jpeg_fancy_upsampling,
        hw_decoder_load=config.hw_decoder_load,
        preallocate_height_hint=height,
        preallocate_width_hint=width,
    )


def resize(images: DataNode, region_start: DataNode, region_end: DataNode, resized_size: DataNode) -> DataNode:
    """The region, given by its (y, x) corners in pixels, resized to (H, W) with an antialiased triangle filter.

    DALI does not refuse a region that the image does not reach: it repeats the outermost pixels. A region that lies beyond the
    image altogether it reads from memory that is not the image's: on a CPU the process crashes (DALI 2.4).
    """
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


def finish(images: DataNode, config: PipelineConfig, size: int, dtype: types.DALIDataType) -> DataNode:
    """Padded with black to a square of `size` pixels, right and below: (x - mean) / std, or, as uint8, the levels x. CHW or HWC,
    as the configuration says."""
    as_levels = dtype == types.UINT8  # once, when the graph is built
    return fn.crop_mirror_normalize(
        images,
        crop=(size, size),
        crop_pos_x=0,
        crop_pos_y=0,
        out_of_bounds_policy="pad",
        fill_values=0 if as_levels else config.black,  # DALI applies these after the normalisation
        mean=0 if as_levels else config.mean,
        std=1 if as_levels else config.std,
        dtype=dtype,
        output_layout=config.output_layout,
    )
