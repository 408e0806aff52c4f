"""Checks that the polygons of an image make sense and belong to its frame."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import shapely

from ocr.datasets.compiled_checks import distinct_vertices, fit_images, surely_sound_words
from ocr.datasets.formats.annotated import AnnotatedChunk, AnnotatedImage, AnnotatedWord
from ocr.datasets.orientation import upright_size

Frame = Literal["stored", "upright"]

_MAX_COORDINATE = 1e6
"""Largest coordinate in pixels: a JPEG ends at 65,535, and float32 resolves 1/16 pixel up to here."""
_MIN_AREA = 1e-3
"""Smallest area of a polygon's convex hull, in square pixels; anything smaller is a line or a point."""
_OVERHANG = 1.0
"""Pixels that a polygon may extend beyond the image without a note; tools that count pixels from 1 exceed every edge by one."""
_SHARE_SLACK = 0.05
"""Part of the image's size by which coordinates from 0 to 1 may stand out."""
_FRAME_SLACK = 0.01
"""Share of the longer side that a polygon may extend beyond the image and still belong to this frame."""

WordFinding = tuple[str, str | None, str, str]
"""(kind, key of the word or None for the image as a whole, found, expected)."""


def doubtful_images(
    chunk: AnnotatedChunk,
    rings: tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]],
    stored_sizes: npt.NDArray[np.int64],
    orientations: npt.NDArray[np.uint8],
    frame: Frame,
) -> npt.NDArray[np.bool_]:
    """Returns (N,) flags of the images that `check_annotation` may find something on; it finds nothing on the others.

    Args:
        chunk: annotations of N images.
        rings: `distinct_rings` of the chunk.
        stored_sizes: (N, 2) (H, W) of the files.
        orientations: (N,) EXIF orientations; 0: the file is not readable, and its image not doubtful.
        frame: frame of the coordinates.
    """
    is_turned = orientations[:, None] >= 5
    upright_sizes = np.where(is_turned, stored_sizes[:, ::-1], stored_sizes)
    sizes = stored_sizes if frame == "stored" else upright_sizes
    doubtful = (chunk.is_declared & (chunk.declared_sizes != sizes)).any(axis=1)
    doubtful[list(chunk.problems)] = True
    has_other_frame = (stored_sizes != upright_sizes).any(axis=1)
    if has_other_frame.any():
        fits = fit_images(chunk.points, chunk.point_starts, chunk.word_starts, sizes, _FRAME_SLACK)
        doubtful |= has_other_frame & ~fits
    has_words = chunk.word_starts[1:] > chunk.word_starts[:-1]
    unit = np.ones_like(sizes)
    doubtful |= has_words & fit_images(chunk.points, chunk.point_starts, chunk.word_starts, unit, _SHARE_SLACK)
    points, starts = rings
    doubtful |= ~surely_sound_words(
        points, points.view(np.int64), starts, chunk.word_starts, sizes, _MAX_COORDINATE, _OVERHANG
    )
    return doubtful & (orientations > 0)


def distinct_rings(chunk: AnnotatedChunk) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Returns (V, 2) distinct points of all words, and (W + 1,) the first of each word."""
    differs = distinct_vertices(chunk.points, chunk.point_starts)
    num_before = np.concatenate([[0], np.cumsum(differs)])
    return chunk.points[differs], num_before[chunk.point_starts]


def check_annotation(
    image: AnnotatedImage, stored: tuple[int, int], orientation: int, frame: Frame
) -> list[WordFinding]:
    """Returns everything wrong with the annotation of one readable image, whose file has a stored size (H, W) and an orientation.

    Its coordinates are in `frame`. `doubtful_images` must call every image doubtful that this finds something on.
    """
    findings: list[WordFinding] = [("malformed", part.word, part.found, part.expected) for part in image.problems]
    upright = upright_size(orientation, stored)
    size, other = (stored, upright) if frame == "stored" else (upright, stored)
    if _are_shares(image.words):
        found = f"coordinates from 0 to 1 in all {len(image.words)} words: parts of the width and height"
        return [*findings, ("normalised", None, found, f"pixels of {size[1]} x {size[0]}")]
    frame_finding = _check_frame(image, size, other, frame)
    if frame_finding is not None:
        return [*findings, frame_finding]
    return findings + _check_words(image.words, size)


def _are_shares(words: Sequence[AnnotatedWord]) -> bool:
    """Returns whether the coordinates of an image lie between 0 and 1, and are not just the corners of one pixel."""
    points = np.concatenate([np.zeros((0, 2)), *(word.points for word in words)])
    is_inside = (points >= -_SHARE_SLACK) & (points <= 1 + _SHARE_SLACK)  # NaN compares false
    return bool(is_inside.all() and (points % 1 != 0).any())


def _check_frame(
    image: AnnotatedImage, size: tuple[int, int], other: tuple[int, int], frame: Frame
) -> WordFinding | None:
    """Returns a finding if the declared size or the polygons do not belong to `frame`, whose size is `size`."""
    other_name = "upright (EXIF applied)" if frame == "stored" else "stored (EXIF not applied)"
    described = f"the {frame} frame, {size[1]} x {size[0]}"
    declared = image.declared_size
    if not _agrees(declared, size):
        text = f"img_w x img_h = {_number(declared[1])} x {_number(declared[0])}"
        if _agrees(declared, other):
            return "other_frame", None, f"{text}: the {other_name} size", described
        return "wrong_size", None, text, described
    if size != other:
        points = [word.points for word in image.words if len(word.points) and np.isfinite(word.points).all()]
        if not all(_fits(part, size) for part in points) and all(_fits(part, other) for part in points):
            return (
                "other_frame",
                None,
                f"polygons that fit only the {other_name} frame, {other[1]} x {other[0]}",
                described,
            )
    return None


def _agrees(declared: tuple[float | None, float | None], size: tuple[int, int]) -> bool:
    return all(claim is None or claim == actual for claim, actual in zip(declared, size, strict=True))


def _fits(points: npt.NDArray[np.float64], size: tuple[int, int]) -> bool:
    slack = _FRAME_SLACK * max(size)
    return bool((points >= -slack).all() and (points <= np.array([size[1], size[0]]) + slack).all())


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:g}"


def _check_words(words: Sequence[AnnotatedWord], size: tuple[int, int]) -> list[WordFinding]:
    findings: list[WordFinding] = []
    sound: list[AnnotatedWord] = []
    first_with: dict[bytes, str] = {}
    for word in words:
        points = word.distinct_points
        identity = np.sort(points.view(np.complex128), axis=0).tobytes()  # independent of first point and direction
        if not (np.abs(word.points) <= _MAX_COORDINATE).all():  # NaN compares false
            worst = word.points[~(np.abs(word.points) <= _MAX_COORDINATE)][0]
            findings.append(("bad_coordinate", word.key, f"a coordinate {worst:g}", "pixels of the image"))
        elif len(points) < 3:
            findings.append(("too_few_points", word.key, f"{len(points)} distinct points", "at least 3"))
        elif identity in first_with:
            same = f"the same polygon as word {first_with[identity]}"
            findings.append(("duplicate", word.key, same, "each polygon once"))
        else:
            first_with[identity] = word.key
            sound.append(word)
    return findings + _check_shapes(sound, size)


def _check_shapes(words: Sequence[AnnotatedWord], size: tuple[int, int]) -> list[WordFinding]:
    """Returns findings on polygons that have 3 or more distinct points with sensible coordinates."""
    if not words:
        return []
    height, width = size
    rings = [word.distinct_points for word in words]
    owners = np.repeat(np.arange(len(rings)), [len(ring) for ring in rings])
    polygons = shapely.polygons(shapely.linearrings(np.concatenate(rings), indices=owners))
    is_flat = shapely.area(shapely.convex_hull(polygons)) < _MIN_AREA
    is_crossing = ~shapely.is_valid(polygons) & ~is_flat
    left, top, right, bottom = shapely.bounds(polygons).T
    overhang = np.max([-left, -top, right - width, bottom - height], axis=0)
    is_outside = np.zeros(len(words), bool)
    standing_out = np.flatnonzero((overhang > 0) & ~is_flat & ~is_crossing)
    image = shapely.box(0, 0, width, height)
    is_outside[standing_out] = shapely.area(shapely.intersection(polygons[standing_out], image)) == 0

    findings: list[WordFinding] = []
    for i, word in enumerate(words):
        box = f"{_number(left[i])},{_number(top[i])} to {_number(right[i])},{_number(bottom[i])}"
        inside = f"a polygon within the image, 0,0 to {width},{height}"
        if is_flat[i]:
            findings.append(("zero_area", word.key, f"a polygon without area, {box}", "an area"))
        elif is_crossing[i]:
            reason = shapely.is_valid_reason(polygons[i])
            findings.append(("self_crossing", word.key, reason, "an outline that does not cross or touch itself"))
        elif is_outside[i]:
            findings.append(("outside", word.key, f"a polygon at {box}", inside))
        elif overhang[i] > _OVERHANG:
            findings.append(("partly_outside", word.key, f"a polygon at {box}", inside))
    return findings
