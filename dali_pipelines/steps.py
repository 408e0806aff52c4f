"""The steps of the graphs. Each takes and returns DALI nodes.

Both paths use receive, read, load and decode. The others run on a GPU only: without one, `rendering` and `normalize.ImageFinisher`
do their work in less time. DALI's CPU backend can run
them too, and the tests check `rendering` against them. docs/architecture.md compares the two paths.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from nvidia.dali import fn, types
from nvidia.dali.backend import TensorListCPU
from nvidia.dali.data_node import DataNode

from dali_pipelines.config import PipelineConfig


class FileSource(NamedTuple):
    """The input of the graph without a GPU per sample."""

    path: DataNode
    """UTF-8 bytes of the file name, uint8."""


class EvalSource(NamedTuple):
    """The inputs of the evaluation graph per sample: a file name and numbers."""

    path: DataNode
    """UTF-8 bytes of the file name, uint8."""
    region_start: DataNode
    """(2,) float32 (y, x) in the original image's pixels."""
    region_end: DataNode
    resized_size: DataNode
    """(2,) float32 (H, W)."""
    stored_size: DataNode
    """(2,) int64 (H, W) that the file must state, before EXIF is applied; (0, 0): any."""


class TrainSource(NamedTuple):
    """The inputs of the training graph per sample; the first five are the fields of `EvalSource`."""

    path: DataNode
    region_start: DataNode
    region_end: DataNode
    resized_size: DataNode
    stored_size: DataNode
    input_from_resized: DataNode
    """(2, 3) float32; (3, 3) in perspective."""
    colour_matrix: DataNode
    """(3, 3) float32 on RGB levels."""
    colour_offset: DataNode
    """(3,) float32, levels."""


class KeptSource(NamedTuple):
    """The additional inputs of a graph with images in memory; placeholders stand for an image that is not kept."""

    encoded: DataNode
    """(n,) uint8, content of the file."""
    is_encoded: DataNode
    """Scalar bool: decode `encoded` instead of reading the file."""
    is_decoded: DataNode | None
    """Scalar bool: take `pixels`; nothing is read or decoded. None: the graph takes no pixels."""
    pixels: DataNode | None
    """(H, W, 3) uint8; None: the graph takes no pixels."""


Arrays = npt.NDArray[Any] | Sequence[npt.NDArray[Any] | torch.Tensor] | TensorListCPU
"""One field of a batch: (B, ...), one array a sample, or either of them as DALI holds it."""
NextBatch = Callable[[], tuple[Arrays, ...]]
SourceType = TypeVar("SourceType", FileSource, EvalSource, TrainSource)


@dataclass(frozen=True)
class Feed:
    """The callbacks of a graph's external sources, and how the graph uses them.

    Each callback returns the `Arrays` of each field of a source and raises StopIteration at the end. DALI calls each once per
    batch, in no particular order.
    """

    next_batch: NextBatch
    """The fields of `FileSource`, `EvalSource` or `TrainSource`."""
    next_kept: NextBatch | None = None
    """All fields of `KeptSource` but the last, or the first two without `next_pixels`; None: images come from files only."""
    next_pixels: NextBatch | None = None
    """The last field of `KeptSource`; None: the graph takes the content of files only."""
    pixels_on_gpu: bool = False
    hands_out_images: bool = False
    """Make the decoded images a second output of a GPU's graph, to be kept."""


def receive(feed: Feed, source_type: type[SourceType]) -> tuple[SourceType, KeptSource | None]:
    """Returns the nodes that `feed` fills."""
    source = source_type(*fn.external_source(source=feed.next_batch, num_outputs=len(source_type._fields), batch=True))
    if feed.next_kept is None:
        return source, None
    # no_copy is safe: kept images are never written again and outlive the pipeline. Passing the pixels of a receipt takes 4 us,
    # with a copy 157 us.
    if feed.next_pixels is None:
        encoded, is_encoded = fn.external_source(source=feed.next_kept, num_outputs=2, batch=True, no_copy=True)
        return source, KeptSource(encoded, is_encoded, None, None)
    encoded, is_encoded, is_decoded = fn.external_source(source=feed.next_kept, num_outputs=3, batch=True, no_copy=True)
    # DALI shares a GPU batch only if its images follow each other in memory, which images in the order of a plan do not. Others it
    # copies within the GPU's memory, one image at a time, in the stream that is current when the batch is fed. It warns if some
    # batches are shared and others copied; a batch of one image would be shared. So no_copy promises nothing here.
    (pixels,) = fn.external_source(
        source=feed.next_pixels,
        num_outputs=1,
        batch=True,
        no_copy=not feed.pixels_on_gpu,
        layout="HWC",
        device="gpu" if feed.pixels_on_gpu else "cpu",
    )
    return source, KeptSource(encoded, is_encoded, is_decoded, pixels)


def load(
    path: DataNode,
    kept: KeptSource | None,
    config: PipelineConfig,
    on_gpu: bool,
    largest_stored: tuple[int, int] | None = None,
    stored_size: DataNode | None = None,
) -> DataNode:
    """Returns upright RGB images, uint8 HWC. Each comes from its file, from the file's content in memory, or from pixels in memory.

    A file of another size than `stored_size` is not decoded, which is an error of the batch; None: any size will do.

    The first condition and `on_gpu` are decided once, when the graph is built. The conditions on nodes of `kept` are decided sample
    by sample, which needs a graph with `enable_conditionals`.
    """
    if kept is None:
        return decode(read(path), config, on_gpu, largest_stored, stored_size)
    if kept.pixels is not None and kept.is_decoded:
        images = kept.pixels.gpu() if on_gpu else kept.pixels
    else:
        images = decode(content(path, kept), config, on_gpu, largest_stored, stored_size)
    return images


def content(path: DataNode, kept: KeptSource | None) -> DataNode:
    """Returns the content of files, uint8, from memory or from the file.

    With `kept` this needs a graph with `enable_conditionals`, as `load` does.
    """
    if kept is None:
        return read(path)
    if kept.is_encoded:  # noqa: SIM108  # DALI takes conditions on nodes in statements only
        encoded = kept.encoded
    else:
        encoded = read(path)
    return encoded


def read(path: DataNode) -> DataNode:
    """Returns the content of the file named by `path` (UTF-8 bytes, uint8). DALI reads it in C++; `s3://` works too."""
    return fn.io.file.read(path)


def as_audited(encoded: DataNode, config: PipelineConfig, stored_size: DataNode | None = None) -> DataNode:
    """Returns the content of an image, or one byte, which no decoder accepts, if its header states too many pixels or another size.

    The audit has refused such images, so this file was replaced since. A file of 30 KB may decode to 13 GB, and `resize` trusts the
    planned size. Reading the header takes about 1 % of the time of decoding a receipt.
    """
    shape = fn.peek_image_shape(encoded, adjust_orientation=False)
    is_replaced = shape[0] * shape[1] > int(config.max_megapixels * 1e6)
    if stored_size is not None:  # decided once, when the graph is built
        is_other = (shape[0] != stored_size[0]) | (shape[1] != stored_size[1])
        is_replaced = is_replaced | (is_other & (stored_size[0] > 0))
    if is_replaced:  # noqa: SIM108  # DALI takes conditions on nodes in statements only
        accepted = types.Constant(np.zeros(1, np.uint8), device="cpu")
    else:
        accepted = encoded
    return accepted


def decode(
    encoded: DataNode,
    config: PipelineConfig,
    on_gpu: bool,
    largest_stored: tuple[int, int] | None = None,
    stored_size: DataNode | None = None,
) -> DataNode:
    """Returns RGB, uint8 HWC, turned upright by EXIF. The output type is RGB because DALI 2.4 crashes on grey JPEGs with ANY_DATA.

    largest_stored: (H, W) that no file exceeds as it is stored, before EXIF is applied; None if unknown.
    """
    encoded = as_audited(encoded, config, stored_size)
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
    """Returns a region, given by its (y, x) corners in pixels, resized to (H, W) with an antialiased triangle filter.

    DALI does not check the region, so `as_audited` refuses images that are too small for it. Where it exceeds the image, the
    outermost pixels are repeated. A region entirely outside the image is read from foreign memory; on a CPU the process crashes
    (DALI 2.4).
    """
    return fn.resize(
        images,
        size=resized_size,
        roi_start=region_start,
        roi_end=region_end,
        interp_type=types.INTERP_LINEAR,
        antialias=True,
    )


def warp(images: DataNode, input_from_resized: DataNode, size: int, in_perspective: bool) -> DataNode:
    """Returns a square of `size` pixels, black outside the image. The image is already scaled, so no filter is needed.

    in_perspective: the matrices are (3, 3) and may be perspectives; otherwise they are (2, 3).
    """
    if in_perspective:  # runs once, when the graph is built
        return fn.experimental.warp_perspective(
            images,
            matrix=input_from_resized,
            size=(size, size),
            inverse_map=False,
            pixel_origin="corner",  # pixel centres at +0.5, as in warp_affine
            interp_type=types.INTERP_LINEAR,
            fill_value=0,
        )
    return fn.warp_affine(
        images,
        matrix=input_from_resized,
        size=(size, size),
        inverse_map=False,  # the forward matrix, the same that moves the polygons
        interp_type=types.INTERP_LINEAR,
        fill_value=0,
    )


def recolour(images: DataNode, colour_matrix: DataNode, colour_offset: DataNode) -> DataNode:
    """Applies brightness, contrast, saturation and hue as one 3x3 matrix and offset on RGB levels, clamped to uint8."""
    return fn.coord_transform(images, M=colour_matrix, T=colour_offset, dtype=types.UINT8)


def finish(images: DataNode, config: PipelineConfig, size: int, dtype: types.DALIDataType) -> DataNode:
    """Returns images padded with black, right and below, to a square of `size` pixels, in the configured layout.

    float16 and float32 are normalised, uint8 keeps the levels. `crop_mirror_normalize` is the GPU graph's form of the formula
    (levels - mean) / std; dali_pipelines/normalize.py has it for everything outside a DALI graph.
    """
    as_levels = dtype == types.UINT8  # decided once, when the graph is built
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
