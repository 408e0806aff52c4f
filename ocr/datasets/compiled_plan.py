"""Plans all samples of a training batch in one compiled pass, without the GIL.

The pass gives the numbers of `ocr.datasets.reference_plan`, bit for bit: it multiplies and inverts matrices in the order of the
BLAS and LAPACK behind NumPy, with fused multiply-add where these have it, and rounds to float32 where the reference does. With a
perspective the matrices may differ in the last bits.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dali_pipelines.compiled import compiled, fused_multiply_add

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

REGION_MARGIN = 2
"""Margin around the crop in pixels, before and after the resize, so that the warp interpolates between real neighbours."""
LUMA = np.array([0.299, 0.587, 0.114])
"""Rec. 601 weights of R, G, B."""
HUE_AXIS = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
"""Cross product with the grey axis (1, 1, 1) / sqrt(3)."""
HUE_AXIS_SQUARED = HUE_AXIS @ HUE_AXIS
WHOLE, HIDDEN = 0.99, 0.01
"""Smallest visible fraction of a polygon that counts as whole, largest of one that counts as outside."""
_SMALLEST_AREA = np.float32(1e-6)
"""Square pixels; stands for the area of an empty box."""

NUM_PLACE_DRAWS, NUM_COLOUR_DRAWS = 3, 4
"""Random numbers of angle, scale and flip before those of the crop; of brightness, contrast, saturation and hue after them."""


class Images(NamedTuple):
    """The images of a manifest."""

    original_sizes: npt.NDArray[np.int32]
    """(N, 2) (H, W) of the upright images."""
    vertices: Float32
    """Fields of `PolygonBatch`, original frame."""
    vertex_starts: Int64
    polygon_starts: Int64


class Draws(NamedTuple):
    """Random numbers of B samples, and what NumPy computes from them.

    NumPy's exp, sin and cos are kept: those of the compiler may differ in the last bit.
    """

    doubles: Float64
    """(B, `num_draws`) uniform in [0, 1), in the order of the reference."""
    scales: Float64
    """(B,) pixels of the input per pixel of the original."""
    colours: Float64
    """(B, 5) relative brightness, contrast and saturation, sine and cosine of the turn of the hue."""
    tilts: Float64
    """(B, 2) strength of the perspective along x and y; their length is at most `Settings.perspective`."""


class Settings(NamedTuple):
    """The settings that a plan depends on."""

    crop_size: int
    rotation_degrees: float
    perspective: float
    flip_probability: float
    crop_candidates: int


class Planned(NamedTuple):
    """Fields of `PlannedBatch`, filled by `plan_samples`."""

    regions_xyxy: Float32
    resized_sizes: Int64
    input_from_resized: Float64
    input_from_original: Float64
    colour_matrices: Float32


def num_draws(crop_candidates: int) -> int:
    """Returns how many random numbers a sample takes."""
    num_uniform = (crop_candidates + 1) // 2
    return NUM_PLACE_DRAWS + 2 * num_uniform + 3 * (crop_candidates - num_uniform) + NUM_COLOUR_DRAWS


@compiled
def plan_samples(indices: Int64, images: Images, draws: Draws, settings: Settings, planned: Planned) -> None:
    """Fills `planned` for the images at the positions `indices`."""
    crop_size, in_perspective = settings.crop_size, settings.perspective > 0
    placed_from_original, product, inverse = np.zeros((3, 3)), np.zeros((3, 3)), np.zeros((3, 3))
    extent, shown = np.zeros(4), np.zeros(4)
    for row in range(len(indices)):
        image, doubles, scale = indices[row], draws.doubles[row], draws.scales[row]
        height, width = float(images.original_sizes[image, 0]), float(images.original_sizes[image, 1])
        _place_about_centre(height, width, scale, doubles, settings, placed_from_original)
        slant_x = slant_y = 0.0
        if in_perspective:
            limit = _slant_limit(image, images, scale, settings)
            slant_x, slant_y = limit * draws.tilts[row, 0], limit * draws.tilts[row, 1]
            _slant(slant_x, slant_y, placed_from_original)
        _find_extent(height * scale, width * scale, slant_x, slant_y, extent)
        boxes = _moved_boxes(image, images, placed_from_original, in_perspective)
        corner_x, corner_y = _choose_crop(boxes, extent, doubles, settings)

        input_from_original = planned.input_from_original[row]
        input_from_original[:] = placed_from_original
        if in_perspective:
            _shift_in_perspective(corner_x, corner_y, input_from_original)
            _invert(input_from_original, inverse)
            _find_shown_in_perspective(inverse, crop_size, shown)
        else:
            input_from_original[0, 2] -= corner_x
            input_from_original[1, 2] -= corner_y
            invert_affine(input_from_original, inverse)
            _find_shown(inverse, crop_size, shown)
        at_centre = 1.0 - (slant_x * (corner_x + crop_size / 2) + slant_y * (corner_y + crop_size / 2))
        resolution = scale * _magnification(at_centre, settings.perspective)
        region = planned.regions_xyxy[row]
        _find_region(shown, height, width, resolution, region)
        # The reference multiplies and rounds in float32.
        resized_height = max(1, int(np.rint(np.float32((region[3] - region[1]) * np.float32(resolution)))))
        resized_width = max(1, int(np.rint(np.float32((region[2] - region[0]) * np.float32(resolution)))))
        planned.resized_sizes[row, 0], planned.resized_sizes[row, 1] = resized_height, resized_width
        _resized_from_region(region, resized_height, resized_width, product)
        invert_affine(product, inverse)
        multiply_affine(input_from_original, inverse, planned.input_from_resized[row])
        if in_perspective:
            _multiply_row(input_from_original[2], inverse, planned.input_from_resized[row, 2])
        _colour_matrix(draws.colours[row], planned.colour_matrices[row])


@compiled
def multiply_affine(a: Float64, b: Float64, out: Float64) -> None:
    """Sets `out` to a @ b, all (3, 3) with last row (0, 0, 1)."""
    _multiply_row(a[0], b, out[0])
    _multiply_row(a[1], b, out[1])
    out[2, 0], out[2, 1], out[2, 2] = 0.0, 0.0, 1.0


@compiled
def _multiply_row(row: Float64, b: Float64, out: Float64) -> None:
    """Sets `out`, (3,), to row @ b."""
    for j in range(3):
        total = fused_multiply_add(row[1], b[1, j], row[0] * b[0, j])
        out[j] = fused_multiply_add(row[2], b[2, j], total)


@compiled
def invert_affine(matrix: Float64, out: Float64) -> None:
    """Sets `out` to the inverse of a (3, 3) matrix with last row (0, 0, 1), by LU decomposition with partial pivoting."""
    upper = 1 if abs(matrix[1, 0]) > abs(matrix[0, 0]) else 0
    lower = 1 - upper
    per_first = 1.0 / matrix[upper, 0]
    ratio = matrix[lower, 0] * per_first
    per_second = 1.0 / (matrix[lower, 1] - ratio * matrix[upper, 1])
    last = matrix[lower, 2] - ratio * matrix[upper, 2]
    for column in range(3):
        z = 1.0 if column == 2 else 0.0
        right_upper = 1.0 if column == upper else 0.0
        right_lower = (1.0 if column == lower else 0.0) - ratio * right_upper
        y = (right_lower - last * z) * per_second
        out[0, column] = (right_upper - matrix[upper, 2] * z - matrix[upper, 1] * y) * per_first
        out[1, column] = y
        out[2, column] = z


@compiled
def _invert(matrix: Float64, out: Float64) -> None:
    """Sets `out` to the inverse of any (3, 3) matrix that has one, by Cramer's rule."""
    for i in range(3):
        for j in range(3):
            upper, lower, left, right = (j + 1) % 3, (j + 2) % 3, (i + 1) % 3, (i + 2) % 3
            out[i, j] = matrix[upper, left] * matrix[lower, right] - matrix[upper, right] * matrix[lower, left]
    determinant = matrix[0, 0] * out[0, 0] + matrix[0, 1] * out[1, 0] + matrix[0, 2] * out[2, 0]
    for i in range(3):
        for j in range(3):
            out[i, j] /= determinant


@compiled
def _place_about_centre(
    height: float, width: float, scale: float, doubles: Float64, settings: Settings, out: Float64
) -> None:
    """Sets `out` to the matrix that scales, flips and rotates an image about its centre, which becomes the origin."""
    radians = (-1.0 + 2.0 * doubles[0]) * settings.rotation_degrees * (math.pi / 180.0)
    cos, sin = math.cos(radians), math.sin(radians)
    scale_x = -scale if doubles[2] < settings.flip_probability else scale
    out[0, 0], out[0, 1], out[1, 0], out[1, 1] = cos * scale_x, sin * scale, -sin * scale_x, cos * scale
    for i in range(2):
        out[i, 2] = fused_multiply_add(out[i, 1], -height / 2, out[i, 0] * (-width / 2))
    out[2, 0], out[2, 1], out[2, 2] = 0.0, 0.0, 1.0


@compiled
def _slant_limit(image: int, images: Images, scale: float, settings: Settings) -> float:
    """Returns the length of `geometry.slant` at full strength; see `reference_plan`."""
    height, width = float(images.original_sizes[image, 0]), float(images.original_sizes[image, 1])
    crop_size, farthest = settings.crop_size, math.hypot(width / 2, height / 2)
    first, last = images.polygon_starts[image], images.polygon_starts[image + 1]
    for i in range(images.vertex_starts[first], images.vertex_starts[last]):
        farthest = max(farthest, math.hypot(images.vertices[i, 0] - width / 2, images.vertices[i, 1] - height / 2))
    half_width, half_height = width * scale / 2, height * scale / 2
    reach = math.hypot(max(half_width, crop_size - half_width), max(half_height, crop_size - half_height))
    return min(1 / (farthest * scale), 2 * (1 - settings.perspective) / reach)


@compiled
def _slant(slant_x: float, slant_y: float, matrix: Float64) -> None:
    """Multiplies an affine matrix by `geometry.slant` from the left, in place."""
    for column in range(3):
        matrix[2, column] += slant_x * matrix[0, column] + slant_y * matrix[1, column]


@compiled
def _shift_in_perspective(corner_x: float, corner_y: float, matrix: Float64) -> None:
    """Moves the target frame's origin to the corner, in place."""
    for column in range(3):
        matrix[0, column] -= corner_x * matrix[2, column]
        matrix[1, column] -= corner_y * matrix[2, column]


@compiled
def _magnification(divisor: float, perspective: float) -> float:
    """Returns how many times larger a perspective shows a small square, per side; see `reference_plan`."""
    within_image = min(max(divisor, 1 / (1 + perspective)), 1 / (1 - perspective))
    return within_image * math.sqrt(within_image)


@compiled
def _find_extent(height: float, width: float, slant_x: float, slant_y: float, extent: Float64) -> None:
    """Sets `extent` to (x0, y0, x1, y1) of an image about the origin, not rotated, in perspective."""
    extent[0], extent[1], extent[2], extent[3] = np.inf, np.inf, -np.inf, -np.inf
    for corner in range(4):
        x, y = (-width / 2 if corner % 2 == 0 else width / 2), (-height / 2 if corner < 2 else height / 2)
        divisor = 1.0 + (slant_x * x + slant_y * y)
        x, y = x / divisor, y / divisor
        extent[0], extent[1] = min(extent[0], x), min(extent[1], y)
        extent[2], extent[3] = max(extent[2], x), max(extent[3], y)


@compiled
def _moved_boxes(image: int, images: Images, matrix: Float64, in_perspective: bool) -> Float32:
    """Returns the bounding boxes (P, 4) of an image's polygons in another frame."""
    first, last = images.polygon_starts[image], images.polygon_starts[image + 1]
    first_vertex = images.vertex_starts[first]
    vertices = images.vertices[first_vertex : images.vertex_starts[last]]
    moved, boxes = np.empty_like(vertices), np.empty((last - first, 4), np.float32)
    _move(vertices, matrix, in_perspective, moved)
    for polygon in range(first, last):
        start, end = images.vertex_starts[polygon] - first_vertex, images.vertex_starts[polygon + 1] - first_vertex
        _bounding_box(moved, start, end, boxes[polygon - first])
    return boxes


@compiled
def _move(vertices: Float32, matrix: Float64, in_perspective: bool, moved: Float32) -> None:
    """Sets `moved` to the vertices in another frame. Unless `in_perspective`, the last row of the matrix is (0, 0, 1).

    A condition inside one loop for both would double the time of planning a receipt.
    """
    if in_perspective:
        for i in range(len(vertices)):
            x, y = vertices[i, 0], vertices[i, 1]
            divisor = (matrix[2, 0] * x + matrix[2, 1] * y) + matrix[2, 2]
            moved[i, 0] = ((matrix[0, 0] * x + matrix[0, 1] * y) + matrix[0, 2]) / divisor
            moved[i, 1] = ((matrix[1, 0] * x + matrix[1, 1] * y) + matrix[1, 2]) / divisor
    else:
        for i in range(len(vertices)):
            x, y = vertices[i, 0], vertices[i, 1]
            moved[i, 0] = (matrix[0, 0] * x + matrix[0, 1] * y) + matrix[0, 2]
            moved[i, 1] = (matrix[1, 0] * x + matrix[1, 1] * y) + matrix[1, 2]


@compiled
def _bounding_box(vertices: Float32, first: int, last: int, box: Float32) -> None:
    """Sets `box` to (x0, y0, x1, y1) of the vertices from `first` up to `last`."""
    box[0], box[1], box[2], box[3] = np.inf, np.inf, -np.inf, -np.inf
    for i in range(first, last):
        x, y = vertices[i, 0], vertices[i, 1]
        box[0], box[1], box[2], box[3] = min(box[0], x), min(box[1], y), max(box[2], x), max(box[3], y)


@compiled
def visible_fraction(box: Float32, x: float, y: float, crop_size: int) -> float:
    """Returns the fraction of a box (x0, y0, x1, y1) that the square crop with top left corner (x, y) shows."""
    shown_x = max(min(box[2], x + crop_size) - max(box[0], x), 0.0)
    shown_y = max(min(box[3], y + crop_size) - max(box[1], y), 0.0)
    return shown_x * shown_y / max((box[2] - box[0]) * (box[3] - box[1]), _SMALLEST_AREA)


@compiled
def _choose_crop(boxes: Float32, extent: Float64, doubles: Float64, settings: Settings) -> tuple[float, float]:
    """Returns the top left corner of the crop; see `reference_plan`."""
    crop_size, num_uniform = settings.crop_size, (settings.crop_candidates + 1) // 2
    picks = NUM_PLACE_DRAWS + 2 * num_uniform
    offsets = picks + settings.crop_candidates - num_uniform
    low_x, high_x = extent[0], extent[2] - crop_size
    low_y, high_y = extent[1], extent[3] - crop_size
    best_x = best_y = 0.0
    least_share = np.inf
    for candidate in range(settings.crop_candidates):
        pair = candidate // 2
        if candidate % 2 == 0:
            first = NUM_PLACE_DRAWS + 2 * pair
            x = low_x + doubles[first] * (extent[2] - extent[0] - crop_size)
            y = low_y + doubles[first + 1] * (extent[3] - extent[1] - crop_size)
        else:
            box = boxes[int(doubles[picks + pair] * len(boxes))]
            x = (box[0] + box[2]) / np.float32(2) - doubles[offsets + 2 * pair] * crop_size
            y = (box[1] + box[3]) / np.float32(2) - doubles[offsets + 2 * pair + 1] * crop_size
            # Crops around text stay inside the image, like the uniform ones.
            x = min(max(x, min(low_x, high_x)), max(low_x, high_x))
            y = min(max(y, min(low_y, high_y)), max(low_y, high_y))
        if len(boxes) == 0:
            return x, y
        share = _share_cut(boxes, x, y, crop_size)
        if share < least_share:
            least_share, best_x, best_y = share, x, y
    return best_x, best_y


@compiled
def _share_cut(boxes: Float32, x: float, y: float, crop_size: int) -> float:
    """Returns the share of a crop's polygons that it cuts; 2 if it shows no whole polygon."""
    num_whole = num_seen = 0
    for i in range(len(boxes)):
        visible = visible_fraction(boxes[i], x, y, crop_size)
        num_whole += visible >= WHOLE
        num_seen += visible > HIDDEN
    return (num_seen - num_whole) / num_seen if num_whole > 0 else 2.0


@compiled
def _find_shown(original_from_input: Float64, crop_size: int, shown: Float64) -> None:
    """Sets `shown` to the box (x0, y0, x1, y1) of the crop in the original frame."""
    for axis in range(2):
        across, along, shift = original_from_input[axis, 0], original_from_input[axis, 1], original_from_input[axis, 2]
        right, below = crop_size * across + shift, crop_size * along + shift
        opposite = fused_multiply_add(float(crop_size), along, crop_size * across) + shift
        shown[axis] = min(min(shift, right), min(below, opposite))
        shown[2 + axis] = max(max(shift, right), max(below, opposite))


@compiled
def _find_shown_in_perspective(original_from_input: Float64, crop_size: int, shown: Float64) -> None:
    """Sets `shown` like `_find_shown`. The matrix divides every point of the crop by a positive number."""
    shown[0], shown[1], shown[2], shown[3] = np.inf, np.inf, -np.inf, -np.inf
    for corner in range(4):
        x, y = float(crop_size * (corner % 2)), float(crop_size * (corner // 2))
        divisor = (original_from_input[2, 0] * x + original_from_input[2, 1] * y) + original_from_input[2, 2]
        for axis in range(2):
            row = original_from_input[axis]
            moved = ((row[0] * x + row[1] * y) + row[2]) / divisor
            shown[axis], shown[2 + axis] = min(shown[axis], moved), max(shown[2 + axis], moved)


@compiled
def _find_region(shown: Float64, height: float, width: float, resolution: float, region_xyxy: Float32) -> None:
    """Sets `region_xyxy` to the whole pixels of the original image in the box `shown`, with a margin."""
    margin = REGION_MARGIN * max(1.0, 1.0 / resolution)
    for axis in range(2):
        limit = width if axis == 0 else height
        lower = min(max(np.floor(shown[axis] - margin), 0.0), limit - 1)
        region_xyxy[axis] = lower
        region_xyxy[2 + axis] = min(max(np.ceil(shown[2 + axis] + margin), lower + 1), limit)


@compiled
def _resized_from_region(region_xyxy: Float32, height: int, width: int, out: Float64) -> None:
    """Sets `out` to the matrix that resizes a region to (height, width) pixels."""
    x0, y0 = np.float64(region_xyxy[0]), np.float64(region_xyxy[1])
    x1, y1 = np.float64(region_xyxy[2]), np.float64(region_xyxy[3])
    out[:] = 0.0
    out[0, 0], out[1, 1], out[2, 2] = width / (x1 - x0), height / (y1 - y0), 1.0
    out[0, 2], out[1, 2] = out[0, 0] * -x0, out[1, 1] * -y0


@compiled
def _colour_matrix(colours: Float64, out: Float32) -> None:
    """Sets `out` to the (3, 4) matrix of saturation and hue about the grey axis, contrast about mid-grey, and brightness."""
    brightness, contrast, saturation, sin, cos = colours[0], colours[1], colours[2], colours[3], colours[4]
    saturated, turned = np.empty((3, 3)), np.empty((3, 3))
    for i in range(3):
        for j in range(3):
            one = 1.0 if i == j else 0.0
            saturated[i, j] = LUMA[j] + (1 + saturation) * (one - LUMA[j])
            turned[i, j] = (one + sin * HUE_AXIS[i, j]) + (1 - cos) * HUE_AXIS_SQUARED[i, j]
    gain = (1 + brightness) * (1 + contrast)
    for i in range(3):
        for j in range(3):
            total = fused_multiply_add(saturated[i, 1], turned[1, j], saturated[i, 0] * turned[0, j])
            out[i, j] = gain * fused_multiply_add(saturated[i, 2], turned[2, j], total)
        out[i, 3] = (1 + brightness) * -contrast * 127.5


@compiled
def move_polygons(
    indices: Int64, images: Images, ignore: npt.NDArray[np.bool_], matrices: Float64, min_visible: float, crop_size: int
) -> tuple[Float32, Int64, Int64, npt.NDArray[np.bool_]]:
    """Returns the fields of `PolygonBatch` for the chosen images, moved by one matrix each.

    Args:
        matrices: (B, 3, 3), affine, or a perspective that divides every vertex by a positive number.
        min_visible: polygons with a smaller visible fraction become don't-care; 0: none does.
        crop_size: side of the square input.
    """
    num_polygons = num_vertices = 0
    for image in indices:
        first, last = images.polygon_starts[image], images.polygon_starts[image + 1]
        num_polygons += last - first
        num_vertices += images.vertex_starts[last] - images.vertex_starts[first]
    vertices = np.empty((num_vertices, 2), np.float32)
    vertex_starts, polygon_starts = np.empty(num_polygons + 1, np.int64), np.empty(len(indices) + 1, np.int64)
    is_ignored = np.empty(num_polygons, np.bool_)
    box = np.empty(4, np.float32)
    num_polygons = num_vertices = 0
    for row in range(len(indices)):
        image, matrix = indices[row], matrices[row]
        in_perspective = matrix[2, 0] != 0 or matrix[2, 1] != 0 or matrix[2, 2] != 1
        polygon_starts[row] = num_polygons
        first, last = images.polygon_starts[image], images.polygon_starts[image + 1]
        of_image = images.vertices[images.vertex_starts[first] : images.vertex_starts[last]]
        _move(of_image, matrix, in_perspective, vertices[num_vertices : num_vertices + len(of_image)])
        for polygon in range(first, last):
            vertex_starts[num_polygons] = num_vertices
            end = num_vertices + images.vertex_starts[polygon + 1] - images.vertex_starts[polygon]
            _bounding_box(vertices, num_vertices, end, box)
            num_vertices = end
            is_hidden = visible_fraction(box, 0.0, 0.0, crop_size) < min_visible
            is_ignored[num_polygons] = ignore[polygon] or is_hidden
            num_polygons += 1
    vertex_starts[num_polygons], polygon_starts[len(indices)] = num_vertices, num_polygons
    return vertices, vertex_starts, polygon_starts, is_ignored
