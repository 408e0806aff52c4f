"""Draws the target maps of a batch on a GPU in one launch of a Triton kernel.

A program of the kernel draws one tile of one image. It goes through the polygons whose window meets the tile and through their
edges, keeps what it finds in registers, and writes the four maps once. No two programs write the same pixel, so the maps of a batch
are the same in every run.

The host sends one buffer: for each band of tiles the range of polygons to go through, then the polygons and the vertices.

TRITON_INTERPRET=1, set before Triton is imported, runs the kernel on the CPU, slowly: the tests do that.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import triton
import triton.language as tl

from dali_pipelines.compiled import compiled
from ocr.polygons import PolygonBatch
from ocr.targets.config import TargetConfig
from ocr.targets.outline import NOTHING, SHORTEST_EDGE, TEXT, Outlines, measure_outlines
from ocr.targets.target_maps import TargetMaps

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

TILE = (16, 64)
"""Rows and columns of map pixels that one program draws; wide, because lines of text are. Powers of two."""
LAUNCH_OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}
BOX_COLUMNS = tl.constexpr(7)
"""Columns of the boxes: first row, last row, first column, last column, first vertex, last vertex, whether it is text."""
SHORTEST_SQUARED = tl.constexpr(SHORTEST_EDGE**2)


def make_targets_triton(
    polygons_input: PolygonBatch,
    size: tuple[int, int],
    config: TargetConfig,
    device: torch.device | str = "cuda",
    tile: tuple[int, int] = TILE,
    outlines: Outlines | None = None,
) -> TargetMaps:
    """Returns the maps of `ocr.targets.maps.make_targets`, computed in float32. The host does not wait for the GPU.

    Args:
        device: a CUDA device; "cpu" only in Triton's interpreter.
        tile: rows and columns that one program draws, powers of two.
        outlines: measures of the polygons; None: they are measured now.
    """
    device = torch.device(device)
    num_images, stride = len(polygons_input), config.map_stride
    num_rows, num_cols = size[0] // stride, size[1] // stride
    maps = torch.empty((4, num_images, num_rows, num_cols), dtype=torch.float32, device=device)
    grid = (triton.cdiv(num_cols, tile[1]), triton.cdiv(num_rows, tile[0]), num_images)
    if maps.numel() == 0:
        return TargetMaps(*maps)
    if outlines is None:
        outlines = measure_outlines(polygons_input, size, config)
    packed = pack_polygons(polygons_input, outlines, num_bands=grid[1], band_rows=tile[0], device=device)
    with torch.cuda.device_of(maps):
        draw_tile[grid](
            *packed,
            maps,
            num_rows,
            num_cols,
            config.thresh_min,
            config.thresh_max - config.thresh_min,
            STRIDE=stride,
            TILE_ROWS=tile[0],
            TILE_COLS=tile[1],
            **LAUNCH_OPTIONS,
        )
    return TargetMaps(*maps)


class PackedPolygons(NamedTuple):
    """The input of the kernel for B images with P polygons and V vertices: views of one buffer.

    The first Q polygons of `boxes` and `distances` are those that have a window, sorted by image and first row.
    """

    ranges: torch.Tensor
    """(2 * B * num_bands,) int32, for each band of an image the range of the polygons that can meet it."""
    boxes: torch.Tensor
    """(7 * P,) int32; see `BOX_COLUMNS`."""
    distances: torch.Tensor
    """(P,) float32, shrink distances D in input pixels."""
    vertices: torch.Tensor
    """(2 * V,) float32, input frame."""


def pack_polygons(
    polygons_input: PolygonBatch,
    outlines: Outlines,
    num_bands: int,
    band_rows: int,
    device: torch.device | str = "cpu",
) -> PackedPolygons:
    """Returns what the kernel reads, on the device. It is copied at once, to a GPU from pinned memory, so that nothing waits.

    Args:
        num_bands: rows of tiles of an image.
        band_rows: map rows of a tile.
    """
    device = torch.device(device)
    num_images, num_polygons = len(polygons_input), polygons_input.num_polygons
    ranges_end = 2 * num_images * num_bands
    boxes_end = ranges_end + BOX_COLUMNS.value * num_polygons
    distances_end = boxes_end + num_polygons
    buffer = torch.empty(
        distances_end + polygons_input.vertices.size, dtype=torch.int32, pin_memory=device.type == "cuda"
    )
    words = buffer.numpy()
    words[distances_end:] = polygons_input.vertices.reshape(-1).view(np.int32)
    _pack(
        polygons_input.vertex_starts,
        polygons_input.polygon_starts,
        outlines.role,
        outlines.distance,
        outlines.windows,
        band_rows,
        words[:ranges_end].reshape(num_images, num_bands, 2),
        words[ranges_end:boxes_end].reshape(num_polygons, BOX_COLUMNS.value),
        words[boxes_end:distances_end].view(np.float32),
    )
    sent = buffer.to(device, non_blocking=True)
    return PackedPolygons(
        sent[:ranges_end],
        sent[ranges_end:boxes_end],
        sent[boxes_end:distances_end].view(torch.float32),
        sent[distances_end:].view(torch.float32),
    )


@compiled
def _pack(
    vertex_starts: Int64,
    polygon_starts: Int64,
    role: npt.NDArray[np.uint8],
    distance: npt.NDArray[np.float64],
    windows: Int64,
    band_rows: int,
    ranges: Int32,
    boxes: Int32,
    distances: npt.NDArray[np.float32],
) -> None:
    """Fills the last three arrays: (B, num_bands, 2), (P, 7) and (P,)."""
    num_images, num_bands = ranges.shape[:2]
    place_of_row = np.empty(num_bands * band_rows + 1, np.int64)
    first = 0
    for image in range(num_images):
        polygons = range(polygon_starts[image], polygon_starts[image + 1])
        # A counting sort by first row.
        place_of_row[:] = 0
        for p in polygons:
            if _is_seen(role[p], windows[p]):
                place_of_row[windows[p, 0] + 1] += 1
        place_of_row[0] = first
        for row in range(1, len(place_of_row)):
            place_of_row[row] += place_of_row[row - 1]
        last = place_of_row[-1]
        for p in polygons:
            if _is_seen(role[p], windows[p]):
                place = place_of_row[windows[p, 0]]
                place_of_row[windows[p, 0]] += 1
                boxes[place, :4] = windows[p]
                boxes[place, 4], boxes[place, 5] = vertex_starts[p], vertex_starts[p + 1]
                boxes[place, 6] = role[p] == TEXT
                distances[place] = distance[p]
        # A range leaves out the first polygons if they all end above the band, and those that start below it.
        ended = started = first
        for band in range(num_bands):
            while started < last and boxes[started, 0] < (band + 1) * band_rows:
                started += 1
            while ended < started and boxes[ended, 1] <= band * band_rows:
                ended += 1
            ranges[image, band, 0], ranges[image, band, 1] = ended, started
        first = last


@compiled
def _is_seen(role: int, window: Int64) -> bool:
    """Returns whether a polygon can change a pixel."""
    return role != NOTHING and window[0] < window[1] and window[2] < window[3]


# The sections of the buffer start at any word, and sizes seldom change: specialising on either would only compile more kernels.
@triton.jit(
    do_not_specialize=["num_rows", "num_cols"],
    do_not_specialize_on_alignment=["ranges", "boxes", "distances", "vertices"],
)
def draw_tile(  # type: ignore[no-untyped-def]
    ranges,  # (B * bands, 2) int32
    boxes,  # (Q, 7) int32
    distances,  # (Q,) float32
    vertices,  # (V, 2) float32
    maps,  # (4, B, num_rows, num_cols) float32, written whole
    num_rows,
    num_cols,
    thresh_min,
    thresh_range,
    STRIDE: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_COLS: tl.constexpr,
):
    """Draws one tile; grid: (tiles in a row, bands, B)."""
    band, image = tl.program_id(1), tl.program_id(2)
    tile_row, tile_col = band * TILE_ROWS, tl.program_id(0) * TILE_COLS
    row = tile_row + tl.arange(0, TILE_ROWS)[:, None]
    col = tile_col + tl.arange(0, TILE_COLS)[None, :]
    x, y = (col + 0.5) * STRIDE, (row + 0.5) * STRIDE

    is_core = tl.zeros((TILE_ROWS, TILE_COLS), tl.int1)
    is_masked_out = tl.zeros((TILE_ROWS, TILE_COLS), tl.int1)
    # 1 on the border, falling to 0 at distance D; 0 further inside, -1 elsewhere. The maximum over all polygons.
    strength = tl.full((TILE_ROWS, TILE_COLS), -1.0, tl.float32)
    range_of_band = ranges + 2 * (image * tl.num_programs(1) + band)
    for polygon in range(tl.load(range_of_band), tl.load(range_of_band + 1)):
        box = boxes + polygon * BOX_COLUMNS
        meets_rows = (tl.load(box) < tile_row + TILE_ROWS) & (tl.load(box + 1) > tile_row)
        meets_cols = (tl.load(box + 2) < tile_col + TILE_COLS) & (tl.load(box + 3) > tile_col)
        if meets_rows & meets_cols:
            squared, inside = measure_pixels(vertices, tl.load(box + 4), tl.load(box + 5), x, y)
            if tl.load(box + 6) != 0:
                distance = tl.load(distances + polygon)
                in_band = squared < distance * distance
                is_core = is_core | (inside & (squared >= distance * distance))
                on_slope = tl.maximum(1 - tl.sqrt(squared) / distance, 0.0)
                strength = tl.maximum(strength, tl.where(in_band, on_slope, tl.where(inside, 0.0, -1.0)))
            else:
                is_masked_out = is_masked_out | inside

    # In 64 bits: the maps of a large batch have more than 2^31 pixels.
    pixels_per_image = num_rows.to(tl.int64) * num_cols
    pixels_per_map = pixels_per_image * tl.num_programs(2)
    pixel = maps + image * pixels_per_image + row * num_cols + col
    in_map = (row < num_rows) & (col < num_cols)
    tl.store(pixel, is_core.to(tl.float32), in_map)
    tl.store(pixel + pixels_per_map, tl.where(is_masked_out, is_core.to(tl.float32), 1.0), in_map)
    tl.store(pixel + 2 * pixels_per_map, thresh_min + thresh_range * tl.maximum(strength, 0.0), in_map)
    tl.store(pixel + 3 * pixels_per_map, tl.where(strength >= 0, 1.0, 0.0), in_map)


@triton.jit
def measure_pixels(vertices, first, last, x, y):  # type: ignore[no-untyped-def]
    """Returns squared distances to the border of the polygon vertices[first:last], and whether the centres (x, y) are inside."""
    squared = x + y + float("inf")
    inside = squared < 0
    start_x, start_y = tl.load(vertices + 2 * last - 2), tl.load(vertices + 2 * last - 1)
    for vertex in range(first, last):
        end_x, end_y = tl.load(vertices + 2 * vertex), tl.load(vertices + 2 * vertex + 1)
        way_x, way_y = end_x - start_x, end_y - start_y
        length_squared = way_x * way_x + way_y * way_y
        per_length = tl.where(length_squared > SHORTEST_SQUARED, 1 / tl.maximum(length_squared, SHORTEST_SQUARED), 0.0)
        from_x, from_y = x - start_x, y - start_y
        t = tl.minimum(tl.maximum((from_x * way_x + from_y * way_y) * per_length, 0.0), 1.0)
        rest_x, rest_y = from_x - t * way_x, from_y - t * way_y
        squared = tl.minimum(squared, rest_x * rest_x + rest_y * rest_y)
        # Both ends are compared with y itself. With a rounded difference, two edges that meet could disagree about their common
        # vertex, and a whole row would be flipped.
        crosses_row = (start_y <= y) != (end_y <= y)
        slope = way_x / tl.where(way_y == 0, 1.0, way_y)
        inside = inside ^ (crosses_row & (from_x >= from_y * slope))
        start_x, start_y = end_x, end_y
    return squared, inside
