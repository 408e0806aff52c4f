"""Draws the target maps of a whole batch with torch operations, on any device and without a host sync.

An item is one pixel of one polygon's window. All items of the batch are concatenated and processed in chunks of bounded memory. For
each item, one step per edge finds the squared distance to its polygon's border and whether it is inside. A map takes the maximum of
the items on a pixel, so the order of the device's threads does not matter.

    polygon 0: 2 x 3 window   polygon 1: 1 x 2   ...
    items  0  1  2  3  4  5         6  7        ...
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ocr.polygons import PolygonBatch
from ocr.targets.config import TargetConfig
from ocr.targets.outline import NOTHING, SHORTEST_EDGE, TEXT, Outlines, measure_outlines, next_vertices
from ocr.targets.target_maps import TargetMaps

ITEMS_PER_CHUNK = 1 << 21
"""About 300 MB of temporary tensors."""

# Core codes of a pixel. The maximum over all polygons counts, so text wins over don't-care.
ELSEWHERE, MASKED_OUT, CORE = 0.0, 1.0, 2.0


def make_targets_torch(
    polygons_input: PolygonBatch,
    size: tuple[int, int],
    config: TargetConfig,
    device: torch.device | str,
    items_per_chunk: int = ITEMS_PER_CHUNK,
) -> TargetMaps:
    """Returns the maps of `ocr.targets.maps.make_targets`, on any device, computed in float32."""
    device = torch.device(device)
    map_shape = (len(polygons_input), size[0] // config.map_stride, size[1] // config.map_stride)
    outlines = measure_outlines(polygons_input, size, config)
    items = _lay_out_items(polygons_input, outlines, device)

    core_code = torch.full(map_shape, ELSEWHERE, dtype=torch.float32, device=device)
    # 1 on the border, falling to 0 at distance D; 0 further inside, -1 elsewhere.
    band_strength = torch.full(map_shape, -1.0, dtype=torch.float32, device=device)
    for first in range(0, items.num_items, items_per_chunk):
        last = min(first + items_per_chunk, items.num_items)
        _draw_items(items, first, last, config.map_stride, core_code, band_strength)

    thresh_range = config.thresh_max - config.thresh_min
    return TargetMaps(
        shrink_map=(core_code == CORE).float(),
        shrink_mask=(core_code != MASKED_OUT).float(),
        thresh_map=config.thresh_min + thresh_range * band_strength.clamp_min(0),
        thresh_mask=(band_strength >= 0).float(),
    )


@dataclass(frozen=True)
class _Items:
    """The Q polygons with a non-empty window, in descending order of their number of vertices.

    The host holds the arrays that decide sizes and loops, the device those that each item looks up.
    """

    starts: npt.NDArray[np.int64]
    """(Q + 1,) on the host; the items of polygon q are starts[q]:starts[q + 1]."""
    num_vertices: npt.NDArray[np.int64]
    """(Q,) on the host, descending."""
    starts_device: torch.Tensor
    """(Q + 1,) int64, a copy of `starts`."""
    places: torch.Tensor
    """(Q, 5) int32: first edge, image, and the window's first row, first column and number of columns."""
    measures: torch.Tensor
    """(Q, 2) float32: the distance D, and 1 if the polygon is text."""
    edges: torch.Tensor
    """(V, 6) float32: start x and y, vector x and y from start to end, 1 / squared length, end y."""

    @property
    def num_items(self) -> int:
        return int(self.starts[-1])


def _lay_out_items(polygons_input: PolygonBatch, outlines: Outlines, device: torch.device) -> _Items:
    rows_first, rows_last, cols_first, cols_last = outlines.windows.T
    num_pixels = (rows_last - rows_first) * (cols_last - cols_first)
    num_vertices = np.diff(polygons_input.vertex_starts)
    seen = np.flatnonzero((num_pixels > 0) & (outlines.part != NOTHING))
    seen = seen[np.argsort(-num_vertices[seen], kind="stable")]

    places = [polygons_input.vertex_starts[:-1], polygons_input.image_of_polygon]
    places += [rows_first, cols_first, cols_last - cols_first]
    measures = [outlines.distance, outlines.part == TEXT]
    starts = np.concatenate([[0], np.cumsum(num_pixels[seen])])
    return _Items(
        starts=starts,
        num_vertices=num_vertices[seen],
        starts_device=_upload(starts, device),
        places=_upload(np.stack(places, axis=1)[seen].astype(np.int32), device),
        measures=_upload(np.stack(measures, axis=1)[seen].astype(np.float32), device),
        edges=_upload(_edges(polygons_input), device),
    )


def _edges(polygons_input: PolygonBatch) -> npt.NDArray[np.float32]:
    """Returns (V, 6), the edge from each vertex to the next, with the columns of `_Items.edges`."""
    start = polygons_input.vertices.astype(np.float64)
    end = start[next_vertices(polygons_input)]
    length_squared = ((end - start) ** 2).sum(axis=1)
    per_length = np.where(length_squared > SHORTEST_EDGE**2, 1 / np.maximum(length_squared, SHORTEST_EDGE**2), 0)
    return np.column_stack([start, end - start, per_length, end[:, 1]]).astype(np.float32)


def _upload(array: npt.NDArray[np.generic], device: torch.device) -> torch.Tensor:
    """Returns the array on the device. A copy to a GPU goes through pinned memory, so it does not wait for the GPU."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _draw_items(
    items: _Items, first: int, last: int, stride: int, core_code_: torch.Tensor, band_strength_: torch.Tensor
) -> None:
    """Draws items first:last into the (B, Hm, Wm) core codes and band strengths, in place."""
    # The polygon of each item. The counts come from the device's own copy, so nothing is uploaded and nothing waits.
    counts = items.starts_device.clamp(first, last).diff()
    polygon = torch.repeat_interleave(counts, output_size=last - first)
    item = torch.arange(first, last, device=polygon.device)
    item_of_polygon = (item - items.starts_device[polygon]).int()
    first_edge, image, first_row, first_col, num_cols = items.places.index_select(0, polygon).unbind(1)
    row_of_window = item_of_polygon // num_cols
    row, col = first_row + row_of_window, first_col + item_of_polygon - row_of_window * num_cols
    x, y = (col + 0.5) * stride, (row + 0.5) * stride

    squared = torch.full_like(x, torch.inf)
    inside = torch.zeros_like(x, dtype=torch.bool)
    chunk_ends = items.starts.clip(first, last) - first
    for edge in range(items.num_vertices.max(initial=0)):
        # Polygons are sorted by number of vertices, so those that have this edge own the first items.
        num_polygons = int((items.num_vertices > edge).sum())
        having = slice(0, int(chunk_ends[num_polygons]))
        if having.stop == 0:
            break
        edges = items.edges.index_select(0, first_edge[having] + edge)
        _take_edge(edges, x[having], y[having], squared[having], inside[having])

    distance, is_text = items.measures.index_select(0, polygon).unbind(1)
    in_band = squared < distance * distance
    code = torch.where(is_text > 0, CORE * ~in_band, MASKED_OUT) * inside
    # The inside of text has strength 0: it does not change the threshold map but belongs to its mask.
    strength = torch.where(in_band, (1 - squared.sqrt() / distance).clamp_min(0), inside * is_text - 1)
    _, map_height, map_width = core_code_.shape
    pixel = (image.long() * map_height + row) * map_width + col
    core_code_.view(-1).scatter_reduce_(0, pixel, code, "amax")
    band_strength_.view(-1).scatter_reduce_(0, pixel, strength, "amax")


def _take_edge(
    edges: torch.Tensor, x: torch.Tensor, y: torch.Tensor, squared_: torch.Tensor, inside_: torch.Tensor
) -> None:
    """Takes one edge into account for n points: lowers squared distances, and flips `inside_` where it crosses left of a point."""
    start_x, start_y, way_x, way_y, per_length, end_y = edges.unbind(1)
    from_x, from_y = x - start_x, y - start_y
    t = ((from_x * way_x + from_y * way_y) * per_length).clamp_(0, 1)
    rest_x, rest_y = from_x - t * way_x, from_y - t * way_y
    torch.minimum(squared_, rest_x * rest_x + rest_y * rest_y, out=squared_)
    # Both ends are compared with y itself. With a rounded difference, two edges that meet could disagree about their common vertex,
    # and a whole row would be flipped.
    crosses_row = (start_y <= y) != (end_y <= y)
    inside_ ^= crosses_row & (from_x >= from_y / way_y * way_x)
