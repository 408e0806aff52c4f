"""Polygons that make no sense or belong to the other frame are reported by name."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ocr.datasets.audit_report import BadDataError
from ocr.datasets.formats.annotated import AnnotatedImage, FormatProblem
from tests.ocr.datasets.audits import SQUARE, annotated, checked, encoded, only_finding


@pytest.mark.parametrize(
    ("points", "kind", "found"),
    [
        (SQUARE[:2], "too_few_points", "2 distinct points"),
        ([], "too_few_points", "0 distinct points"),
        ([(1, 1)] * 4, "too_few_points", "1 distinct points"),
        ([(1, 1), (1, 1), (5, 5), (1, 1)], "too_few_points", "2 distinct points"),
        ([(1, 1), (5, 5), (9, 9)], "zero_area", "a polygon without area, 1,1 to 9,9"),
        ([(1, 1), (9, 9), (9, 1), (1, 9)], "self_crossing", "Self-intersection[5 5]"),
        ([(1, 1), (9, 1), (9, float("nan"))], "bad_coordinate", "a coordinate nan"),
        ([(1, 1), (float("-inf"), 1), (9, 9)], "bad_coordinate", "a coordinate -inf"),
        ([(1, 1), (1e30, 1), (9, 9)], "bad_coordinate", "a coordinate 1e+30"),
        ([(41, 1), (49, 1), (49, 9)], "outside", "a polygon at 41,1 to 49,9"),
        ([(-9, -9), (0, -9), (0, 0)], "outside", "a polygon at -9,-9 to 0,0"),
        # The triangle's box reaches into the image's corner; the triangle itself does not.
        ([(-30, 10), (-30, -30), (10, -30)], "outside", "a polygon at -30,-30 to 10,10"),
        ([(-2, 1), (9, 1), (9, 9)], "partly_outside", "a polygon at -2,1 to 9,9"),
    ],
)
def test_a_bad_polygon_is_named(picture: Path, points: list[tuple[float, float]], kind: str, found: str) -> None:
    finding = only_finding(picture, annotated("a.jpg", SQUARE, np.reshape(points, (-1, 2))))
    assert (finding.image, finding.word, finding.kind, finding.found) == ("a.jpg", "0002", kind, found)
    assert finding.severity == ("note" if kind == "partly_outside" else "annotation")


@pytest.mark.parametrize(
    "points", [SQUARE, [*SQUARE, SQUARE[0]], [(0, 0), (40, 0), (40, 30), (0, 30)], [(-0.5, 0), (40.9, 0), (40, 30.5)]]
)
def test_a_good_polygon_has_no_finding(picture: Path, points: list[tuple[float, float]]) -> None:
    manifest, report = checked(picture, [annotated("a.jpg", points)])
    assert report.findings == ()
    assert manifest.polygons.num_polygons == 1


def test_a_closing_point_equal_to_the_first_is_dropped(picture: Path) -> None:
    manifest, _ = checked(picture, [annotated("a.jpg", [*SQUARE, SQUARE[0]])])
    assert sorted(map(tuple, manifest.polygons.polygons_of(0)[0].tolist())) == sorted(SQUARE)


def test_the_same_polygon_from_another_start_and_backwards_is_a_duplicate(picture: Path) -> None:
    finding = only_finding(picture, annotated("a.jpg", SQUARE, [*SQUARE[2:], *SQUARE[:2]][::-1]))
    assert (finding.kind, finding.word, finding.found) == ("duplicate", "0002", "the same polygon as word 0001")


@pytest.mark.parametrize("size", [(31, 40), (None, 30), (30, 40.5)])
def test_a_wrong_declared_size_is_named(picture: Path, size: tuple[int | None, int | None]) -> None:
    finding = only_finding(picture, annotated("a.jpg", SQUARE, size=size))
    assert (finding.kind, finding.word) == ("wrong_size", None)
    assert finding.expected == "the stored frame, 40 x 30"


def test_an_image_listed_twice_is_named_and_skipped_as_a_whole(picture: Path) -> None:
    (picture / "b.jpg").write_bytes(encoded())
    images = [annotated("a.jpg", SQUARE), annotated("b.jpg"), annotated("a.jpg")]
    manifest, report = checked(picture, images, on_bad_sample="skip")
    assert manifest.filenames == ("b.jpg",)
    assert manifest.sample_ids.tolist() == [1]
    assert report.counts == {"listed_twice": 2}


def test_an_image_listed_very_often_is_named_a_hundred_times(picture: Path) -> None:
    (picture / "b.jpg").write_bytes(encoded())
    images = [annotated("b.jpg"), *(annotated("a.jpg") for _ in range(150))]
    manifest, report = checked(picture, images, on_bad_sample="skip")
    assert manifest.filenames == ("b.jpg",)
    assert report.counts == {"listed_twice": 100}
    assert report.findings[-1].found == "150 entries for this image"


def test_problems_of_the_reader_are_findings_with_their_place(picture: Path) -> None:
    image = AnnotatedImage(
        "a.jpg", "gt_a.txt", problems=(FormatProblem("12", "3 numbers", "8 (a quad)"),), keys_are_lines=True
    )
    finding = only_finding(picture, image)
    assert str(finding) == (
        "gt_a.txt:12 (a.jpg): malformed: found 3 numbers; expected 8 (a quad); correct the annotation"
    )


@pytest.fixture
def turned(tmp_path: Path) -> Path:
    """A folder with a.jpg, stored 40 wide and 100 high, to be turned a quarter clockwise: upright 100 wide, 40 high."""
    (tmp_path / "a.jpg").write_bytes(encoded(40, 100, orientation=6))
    return tmp_path


def test_stored_polygons_are_turned_upright(turned: Path) -> None:
    manifest, report = checked(turned, [annotated("a.jpg", [(0, 0), (40, 0), (0, 10)], size=(100, 40))])
    # A quarter clockwise: the stored left edge becomes the upper edge, read from the right.
    np.testing.assert_array_equal(manifest.polygons.polygons_of(0)[0], [[100, 0], [100, 40], [90, 0]])
    assert manifest.original_sizes.tolist() == [[40, 100]]
    assert report.findings == ()
    assert report.statistics["orientation"] == {"6": 1}


def test_upright_polygons_stay_as_they_are(turned: Path) -> None:
    points = [(0, 0), (100, 0), (0, 10)]
    manifest, report = checked(turned, [annotated("a.jpg", points, size=(40, 100))], annotation_frame="upright")
    np.testing.assert_array_equal(manifest.polygons.polygons_of(0)[0], points)
    assert report.findings == ()


@pytest.mark.parametrize(
    ("frame", "points", "size", "found"),
    [
        ("stored", [(0, 0), (90, 0), (0, 10)], (None, None), "polygons that fit only the upright (EXIF applied) frame"),
        (
            "upright",
            [(0, 0), (9, 0), (0, 90)],
            (None, None),
            "polygons that fit only the stored (EXIF not applied) frame",
        ),
        ("stored", SQUARE, (40, 100), "img_w x img_h = 100 x 40: the upright (EXIF applied) size"),
        ("upright", SQUARE, (100, 40), "img_w x img_h = 40 x 100: the stored (EXIF not applied) size"),
    ],
)
def test_an_image_that_fits_only_the_other_frame_is_named_not_guessed(
    turned: Path, frame: Any, points: Any, size: tuple[int | None, int | None], found: str
) -> None:
    with pytest.raises(BadDataError, match="other_frame") as caught:
        checked(turned, [annotated("a.jpg", points, size=size)], annotation_frame=frame)
    (finding,) = caught.value.report.findings
    assert finding.found.startswith(found)
    assert "annotation_frame" in finding.advice


def test_polygons_that_fit_neither_frame_are_named_one_by_one(turned: Path) -> None:
    finding = only_finding(turned, annotated("a.jpg", SQUARE, [(200, 0), (230, 0), (230, 20)]))
    assert (finding.kind, finding.word) == ("outside", "0002")
