"""Packs the polygons of a batch into the one array that the Triton kernel reads.

The thread that plans batches ahead does this; the thread that launches kernels only uploads the array. Its 32-bit words, for B
images with P polygons and V vertices:

- (B, num_bands, 2) int32: for each band of map rows of an image the range of the polygons that can meet it;
- (P, 7) int32: first row, last row, first column, last column of a polygon's window, first vertex, last vertex, weight of
  a text, or 0 for a don't-care region;
- (P,) float32: shrink distances D in input pixels;
- (V, 2) float32: vertices, input frame.

The polygons that have a window come first, sorted by image and first row.
"""

import numpy as np
import numpy.typing as npt

from dali_pipelines.compiled import compiled
from ocr.polygons import PolygonBatch
from ocr.targets.outline import NOTHING, TEXT, Outlines

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

BAND_ROWS = 16
"""Map rows of a band, and of a tile of the kernel."""
BOX_COLUMNS = 7


def pack_polygons(polygons_input: PolygonBatch, outlines: Outlines, num_rows: int, band_rows: int = BAND_ROWS) -> Int32:
    """Returns the words that the kernel reads, (n,) int32.

    Args:
        num_rows: rows of a map.
        band_rows: map rows of a band; those of the kernel's tiles.
    """
    num_images, num_polygons, num_bands = len(polygons_input), polygons_input.num_polygons, -(-num_rows // band_rows)
    boxes_start = 2 * num_images * num_bands
    distances_start = boxes_start + BOX_COLUMNS * num_polygons
    vertices_start = distances_start + num_polygons
    words = np.empty(vertices_start + polygons_input.vertices.size, np.int32)
    words[vertices_start:] = polygons_input.vertices.reshape(-1).view(np.int32)
    _pack(
        polygons_input.vertex_starts,
        polygons_input.polygon_starts,
        outlines.role,
        outlines.distance,
        outlines.windows,
        outlines.weight,
        band_rows,
        words[:boxes_start].reshape(num_images, num_bands, 2),
        words[boxes_start:distances_start].reshape(num_polygons, BOX_COLUMNS),
        words[distances_start:vertices_start].view(np.float32),
    )
    return words


@compiled
def _pack(
    vertex_starts: Int64,
    polygon_starts: Int64,
    role: npt.NDArray[np.uint8],
    distance: npt.NDArray[np.float64],
    windows: Int64,
    weight: npt.NDArray[np.uint8],
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
                boxes[place, 6] = weight[p] if role[p] == TEXT else 0
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
