"""Draws the target maps of a batch on a GPU in one launch of a Triton kernel.

A program of the kernel draws one tile of one image. It goes through the polygons whose window meets the tile and through their
edges, keeps what it finds in registers, and writes the four maps once. No two programs write the same pixel, so the maps of a batch
are the same in every run.

The host sends one array, which `packing` makes: for each band of tiles the range of polygons to go through, then the polygons and
the vertices.

TRITON_INTERPRET=1, set before Triton is imported, runs the kernel on the CPU, slowly: the tests do that.
"""

import torch
import triton
import triton.language as tl

from ocr.polygons import PolygonBatch
from ocr.targets import packing
from ocr.targets.config import TargetConfig
from ocr.targets.outline import SHORTEST_EDGE, Outlines, measure_outlines
from ocr.targets.packing import Int32, pack_polygons
from ocr.targets.target_maps import TargetMaps

TILE = (packing.BAND_ROWS, 64)
"""Rows and columns of map pixels that one program draws; wide, because lines of text are. Powers of two."""
LAUNCH_OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}
BOX_COLUMNS = tl.constexpr(packing.BOX_COLUMNS)
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
        outlines: measures of the polygons; None: they are measured now. Polygons that are not packed are packed now.
    """
    device = torch.device(device)
    num_images, stride = len(polygons_input), config.map_stride
    num_rows, num_cols = size[0] // stride, size[1] // stride
    maps = torch.empty((4, num_images, num_rows, num_cols), dtype=torch.float32, device=device)
    if maps.numel() == 0:
        return TargetMaps(*maps.unbind())
    if outlines is None:
        outlines = measure_outlines(polygons_input, size, config)
    words = outlines.packed
    if words is None or tile[0] != packing.BAND_ROWS:
        words = pack_polygons(polygons_input, outlines, num_rows, band_rows=tile[0])
    # Not triton.cdiv, which takes several microseconds on the host.
    grid = (-(-num_cols // tile[1]), -(-num_rows // tile[0]), num_images)
    with torch.cuda.device_of(maps):
        draw_tile[grid](
            _upload(words, device),
            polygons_input.num_polygons,
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
    return TargetMaps(*maps.unbind())


def _upload(words: Int32, device: torch.device) -> torch.Tensor:
    """Returns the array on the device, copied there from pinned memory, so that the host does not wait."""
    pinned = torch.empty(len(words), dtype=torch.int32, pin_memory=device.type == "cuda")
    pinned.numpy()[:] = words
    return pinned.to(device, non_blocking=True)


# Sizes seldom change, and numbers of polygons always: specialising on either would only compile more kernels.
@triton.jit(do_not_specialize=["num_polygons", "num_rows", "num_cols"])
def draw_tile(  # type: ignore[no-untyped-def]  # Triton takes annotations as its own types
    words,  # (n,) int32; see `packing`
    num_polygons,
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

    boxes = words + 2 * tl.num_programs(2) * tl.num_programs(1)
    distances = (boxes + BOX_COLUMNS * num_polygons).to(tl.pointer_type(tl.float32), bitcast=True)
    vertices = distances + num_polygons

    is_core = tl.zeros((TILE_ROWS, TILE_COLS), tl.int1)
    text_weight = tl.full((TILE_ROWS, TILE_COLS), 1, tl.int32)
    is_masked_out = tl.zeros((TILE_ROWS, TILE_COLS), tl.int1)
    # 1 on the border, falling to 0 at distance D; 0 further inside, -1 elsewhere. The maximum over all polygons.
    strength = tl.full((TILE_ROWS, TILE_COLS), -1.0, tl.float32)
    range_of_band = words + 2 * (image * tl.num_programs(1) + band)
    for polygon in range(tl.load(range_of_band), tl.load(range_of_band + 1)):
        box = boxes + polygon * BOX_COLUMNS
        meets_rows = (tl.load(box) < tile_row + TILE_ROWS) & (tl.load(box + 1) > tile_row)
        meets_cols = (tl.load(box + 2) < tile_col + TILE_COLS) & (tl.load(box + 3) > tile_col)
        if meets_rows & meets_cols:
            squared, inside = measure_pixels(vertices, tl.load(box + 4), tl.load(box + 5), x, y)
            weight = tl.load(box + 6)
            if weight != 0:
                distance = tl.load(distances + polygon)
                in_band = squared < distance * distance
                is_core = is_core | (inside & (squared >= distance * distance))
                text_weight = tl.maximum(text_weight, tl.where(in_band | inside, weight, 1))
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
    tl.store(pixel + pixels_per_map, tl.where(is_masked_out & ~is_core, 0.0, text_weight.to(tl.float32)), in_map)
    tl.store(pixel + 2 * pixels_per_map, thresh_min + thresh_range * tl.maximum(strength, 0.0), in_map)
    tl.store(pixel + 3 * pixels_per_map, tl.where(strength >= 0, 1.0, 0.0), in_map)


@triton.jit
def measure_pixels(vertices, first, last, x, y):  # type: ignore[no-untyped-def]  # as above
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
