"""CLEval of one image with shapely and arrays of all pairs: the slow reference of `count_characters`, for any polygons."""

import numpy as np
import numpy.typing as npt
import shapely

from ocr.metrics.cleval import AREA_PRECISION, CLEvalCounts, num_false_characters
from ocr.metrics.regions import Bools, FlatPolygons, Floats, Ints, Polygons, Regions, flat_polygons


def count_characters_reference(
    predictions: Polygons, targets: Polygons, ignore: Bools, characters: Floats, target_of_character: Ints
) -> CLEvalCounts:
    """Returns the counts of one image.

    Args:
        characters, target_of_character: as in `CharacterTargets`.
    """
    flat = _truncated(flat_polygons(predictions, "prediction"))
    detected = Regions.from_flat(flat)
    regions = _with_words_cut_out(Regions.from_flat(_truncated(flat_polygons(targets, "target"))), ignore)
    found, holders = _characters_inside(characters, flat, detected)
    owners = target_of_character[found]

    shape = len(ignore), len(predictions)
    held = np.bincount(owners * shape[1] + holders, minlength=shape[0] * shape[1]).reshape(shape)
    part_inside = _area_precision(regions, ignore, detected, held)
    is_counted = ~_in_dont_care(ignore, part_inside, held)
    matches = _matches(part_inside, held, ~ignore, is_counted)

    is_matched = matches[owners, holders]
    was_found = np.zeros(len(characters), np.bool_)
    was_found[found[is_matched]] = True
    unmatched = np.flatnonzero(is_counted & ~matches.any(axis=0)).tolist()
    return CLEvalCounts(
        found=int(np.sum(was_found)),
        num_target_chars=int(np.sum(~ignore[target_of_character])),
        num_predicted_chars=int(np.sum(is_matched))
        + num_false_characters(flat_polygons(predictions, "prediction"), np.array(unmatched, np.int64)),
        splits=int(np.maximum(matches.sum(axis=1) - 1, 0).sum()),
        merges=int(np.maximum(matches.sum(axis=0) - 1, 0).sum()),
    )


def _area_precision(targets: Regions, ignore: Bools, detected: Regions, held: Ints) -> npt.NDArray[np.float32]:
    """Returns (T, D), the fraction of each detection's area in each target; 0 where a word has no character in the detection."""
    at_most = box_overlap(targets, detected)
    rows, columns = np.nonzero((at_most > 0) & (ignore[:, None] | (held > 0)) & (detected.areas > 0))
    # Single precision as in the package: it decides cases that lie exactly on the threshold.
    part_inside = np.zeros(held.shape, np.float32)
    part_inside[rows, columns] = overlap_of_pairs(targets, detected, rows, columns) / detected.areas[columns]
    return part_inside


def _in_dont_care(ignore: Bools, part_inside: npt.NDArray[np.float32], held: Ints) -> Bools:
    """Returns (D,), whether a detection lies in one don't-care region, or in several together whose characters it contains."""
    parts = part_inside[ignore]
    in_several = np.sum(parts, axis=0, where=held[ignore] > 0)
    return (parts >= AREA_PRECISION).any(axis=0) | (in_several >= AREA_PRECISION)


def _matches(part_inside: npt.NDArray[np.float32], held: Ints, is_word: Bools, is_counted: Bools) -> Bools:
    """Returns (T, D), whether a target is a word that matches a counted detection."""
    can_match = is_word[:, None] & is_counted
    holds = held > 0
    belongs = holds & (part_inside >= AREA_PRECISION)
    # The only detection of its word, uncounted ones included. If it has several words, `is_merged` applies as well.
    is_alone = belongs & (belongs.sum(axis=1) == 1)[:, None] & can_match
    holds, belongs = holds & can_match, belongs & can_match
    is_split = belongs & (belongs.sum(axis=1) >= 2)[:, None]
    joint_part = np.sum(part_inside, axis=0, where=holds, dtype=np.float64)
    is_merged = holds & (holds.sum(axis=0) >= 2) & (joint_part >= AREA_PRECISION)
    return is_alone | is_split | is_merged


def _characters_inside(characters: Floats, detections: FlatPolygons, regions: Regions) -> tuple[Ints, Ints]:
    """Returns index pairs of a character and a detection that contains it.

    Left and upper borders count as inside, other borders do not.
    """
    x, y = characters[:, 0, None], characters[:, 1, None]
    x0, y0, x1, y1 = shapely.bounds(regions.geometries).T
    characters_near, near = np.nonzero((x >= x0) & (x <= x1) & (y >= y0) & (y <= y1))
    first, last = _edges(detections)
    x, y = x[characters_near], y[characters_near]
    first, last = first[near], last[near]
    # Counts the edges that a ray to the right crosses.
    is_level = (first[..., 1] <= y) & (y < last[..., 1])
    rise, run = last[..., 1] - first[..., 1], last[..., 0] - first[..., 0]
    is_right = (x - first[..., 0]) * rise < run * (y - first[..., 1])
    is_inside = np.sum(is_level & is_right, axis=1) % 2 == 1
    return characters_near[is_inside], near[is_inside]


def _edges(polygons: FlatPolygons) -> tuple[Floats, Floats]:
    """Returns (P, N, 2) upper and lower ends of the edges; polygons with fewer than N edges are padded with edges of length 0."""
    counts = polygons.num_vertices
    longest = int(counts.max(initial=0))
    starts = np.cumsum(counts) - counts
    steps = np.arange(longest + 1)
    around = polygons.vertices[starts[:, None] + np.where(steps < counts[:, None], steps, 0)]
    first, last = around[:, :-1], around[:, 1:]
    is_downward = (first[..., 1] <= last[..., 1])[..., None]
    return np.where(is_downward, first, last), np.where(is_downward, last, first)


def _truncated(polygons: FlatPolygons) -> FlatPolygons:
    return polygons._replace(vertices=np.trunc(polygons.vertices))


def _with_words_cut_out(regions: Regions, ignore: Bools) -> Regions:
    """Returns the regions with the words cut out of don't-care regions."""
    if not ignore.any():
        return regions
    geometries = regions.geometries.copy()
    geometries[ignore] = shapely.difference(geometries[ignore], shapely.union_all(geometries[~ignore]))
    return Regions.from_geometries(geometries)


def box_overlap(first: Regions, second: Regions) -> Floats:
    """Returns (F, S), the common area of bounding boxes: an upper limit of the regions' overlap; NaN where a region is empty."""
    a, b = shapely.bounds(first.geometries)[:, None], shapely.bounds(second.geometries)
    sides = np.minimum(a[..., 2:], b[:, 2:]) - np.maximum(a[..., :2], b[:, :2])
    np.maximum(sides, 0, out=sides)
    return sides[..., 0] * sides[..., 1]


def overlap_of_pairs(first: Regions, second: Regions, rows: Ints, columns: Ints) -> Floats:
    """Returns the common area of first[rows[k]] and second[columns[k]] for each pair k."""
    return shapely.area(shapely.intersection(first.geometries[rows], second.geometries[columns]))
