"""The audit of a whole split: what is an error, what is left out, and what the report says."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ocr.datasets import audit_result
from ocr.datasets.audit_report import BadDataError
from ocr.datasets.formats.upstage import read_upstage
from tests.ocr.datasets.audits import SQUARE, annotated, checked, encoded


def test_bad_annotations_raise_one_error_that_lists_them_all(picture: Path) -> None:
    images = [annotated("a.jpg", *[[(i, 1), (i, 5), (i, 9)] for i in range(25)]), annotated("gone.jpg")]
    with pytest.raises(BadDataError) as caught:
        checked(picture, images, report_path=picture / "audit.json")
    message = str(caught.value)
    assert f"{picture}: 26 findings" in message
    assert (
        "train.json (a.jpg, word 0001): zero_area: found a polygon without area, 0,1 to 0,9; expected an area"
        in message
    )
    assert "and 6 more" in message
    assert message.count("zero_area") == 20
    assert "audit.json" in message
    assert "on_bad_sample=skip" in message
    assert json.loads((picture / "audit.json").read_text())["counts"] == {"zero_area": 25, "missing": 1}


def test_skip_leaves_out_bad_words_and_wholly_bad_images_and_counts_them(picture: Path) -> None:
    (picture / "b.jpg").write_bytes(encoded())
    images = [
        annotated("gone.jpg", SQUARE),
        annotated("a.jpg", SQUARE[:2], SQUARE),
        annotated("b.jpg", SQUARE, size=(1, 1)),
    ]
    manifest, report = checked(picture, images, on_bad_sample="skip")
    assert manifest.filenames == ("a.jpg",)
    assert manifest.sample_ids.tolist() == [1]
    np.testing.assert_array_equal(manifest.polygons.polygons_of(0), [SQUARE])
    assert (report.num_listed, report.num_images, report.num_words, report.num_skipped_words) == (3, 1, 1, 1)
    assert report.counts == {"missing": 1, "too_few_points": 1, "wrong_size": 1}


def test_error_makes_an_unreadable_image_an_error_too(picture: Path) -> None:
    images = [annotated("a.jpg"), annotated("gone.jpg")]
    assert len(checked(picture, images)[0]) == 1
    with pytest.raises(BadDataError, match=r"1 finding\n.*gone\.jpg"):
        checked(picture, images, on_bad_sample="error")


@pytest.mark.parametrize(
    "name", ["../out.jpg", "{folder}/out.jpg", "sub/../../out.jpg", "sub/../in.jpg", "\x1b[2Jin\n.jpg"]
)
def test_an_image_whose_name_is_not_sound_is_an_error_though_the_file_is_there(name: str, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for path in (tmp_path / "out.jpg", images / "a.jpg", images / "in.jpg", images / "\x1b[2Jin\n.jpg"):
        path.write_bytes(encoded())
    listed = [annotated(name.format(folder=tmp_path)), annotated("a.jpg", SQUARE)]
    with pytest.raises(BadDataError, match="bad_name: found ") as caught:
        checked(images, listed)
    assert "1 finding\n" in str(caught.value)
    assert all(line.isprintable() for line in str(caught.value).splitlines())
    manifest, report = checked(images, listed, on_bad_sample="skip")
    assert manifest.filenames == ("a.jpg",)
    assert manifest.sample_ids.tolist() == [1]
    assert report.counts == {"bad_name": 1}


def test_names_are_escaped_in_messages_and_whole_in_the_report(picture: Path) -> None:
    names = ["\x1b[31m\x9b.jpg", "\ud800.jpg"]
    _, report = checked(
        picture,
        [*map(annotated, names), annotated("a.jpg")],
        on_bad_sample="skip",
        report_path=picture / "audit.json",
    )
    assert r"train.json (\x1b[31m\x9b.jpg): bad_name: found the control character \x1b" in str(report.findings[0])
    written = json.loads((picture / "audit.json").read_text(encoding="utf-8"))
    assert [finding["image"] for finding in written["findings"]] == names


def test_notes_are_no_errors(picture: Path) -> None:
    _, report = checked(picture, [annotated("a.jpg", [(-5, 0), (9, 0), (9, 9)])], on_bad_sample="error")
    assert report.counts == {"partly_outside": 1}


@pytest.mark.parametrize("mode", [None, "skip"])
def test_a_split_without_usable_images_is_an_error(picture: Path, mode: Any) -> None:
    with pytest.raises(BadDataError, match="none of 1 listed images is usable") as caught:
        checked(picture, [annotated("gone.jpg")], on_bad_sample=mode)
    assert "gone.jpg" in str(caught.value)
    with pytest.raises(BadDataError, match="none of 0 listed images is usable"):
        checked(picture, [], on_bad_sample=mode)


def test_without_annotations_all_images_of_the_folder_are_taken_in_order(tmp_path: Path) -> None:
    for name in ("b.jpg", "sub/c.JPG", "a.png", "notes.txt", "d.gif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded(image_format="PNG" if name == "a.png" else "JPEG"))
    manifest, report = checked(tmp_path, None)
    assert manifest.filenames == ("a.png", "b.jpg", "sub/c.JPG")
    assert manifest.image_paths[2] == str(tmp_path / "sub" / "c.JPG")
    assert len(manifest.polygons) == 3
    assert manifest.polygons.num_polygons == 0
    assert report.num_not_annotated == 0


def test_a_relative_image_folder_is_resolved(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (picture / "sub").mkdir()
    (picture / "extra.jpg").write_bytes(encoded())
    monkeypatch.chdir(picture / "sub")
    manifest, report = checked(Path(".."), [annotated("a.jpg")])
    assert manifest.image_paths == (str(picture / "a.jpg"),)
    assert report.num_not_annotated == 1


def test_a_missing_or_empty_image_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere: there is no such image folder"):
        checked(tmp_path / "nowhere", None)
    with pytest.raises(FileNotFoundError, match=r"no image with extension \.jpg, \.jpeg, \.png in this folder"):
        checked(tmp_path, None)


@pytest.mark.parametrize(("name", "split"), [(n, s) for n in ("sroie", "icdar15") for s in ("train", "val")])
def test_the_real_data_sets_have_no_findings(name: str, split: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(name)
    annotations = list(read_upstage(folder / "jsons" / f"{split}.json"))
    manifest, report = checked(folder / "images" / split, annotations, on_bad_sample="error")
    assert report.findings == ()
    assert len(manifest) == manifest.num_listed == len(annotations)
    assert manifest.polygons.num_polygons == report.num_words == sum(len(image.words) for image in annotations)
    assert report.num_not_annotated == 0


def test_the_summary_has_a_line_for_each_kind_of_finding(picture: Path) -> None:
    (picture / "[red].jpg").write_bytes(encoded(image_format="JPEG", progressive=True))
    _, report = checked(picture, [annotated("a.jpg", SQUARE), annotated("[red].jpg"), annotated("gone.jpg")])
    assert report.summary().plain == (
        "2 of 3 images usable, 1 words, 0 of them don't-care\n  missing: 1; restore the file, or check image_path"
    )
    assert report.statistics["coding"] == {"baseline": 1, "progressive": 1}


def test_the_summary_is_one_line_if_nothing_is_wrong(picture: Path) -> None:
    _, report = checked(picture, [annotated("a.jpg")])
    assert report.summary().plain == "1 of 1 images usable"


def test_images_without_annotations_are_named(picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"b{number}.jpg" for number in range(7)] + ["c\n.jpg"]
    for name in names:
        (picture / name).write_bytes(encoded())
    path = tmp_path / "audit.json"
    _, report = checked(picture, [annotated("a.jpg"), annotated("b0.jpg"), annotated("b2.jpg")], report_path=path)
    assert report.not_annotated == ("b1.jpg", "b3.jpg", "b4.jpg", "b5.jpg", "b6.jpg", "c\n.jpg")
    line = "  6 images in the folder are not in the annotations: b1.jpg, b3.jpg, b4.jpg, b5.jpg, b6.jpg, ..."
    assert report.summary().plain.splitlines()[1:] == [line]
    assert json.loads(path.read_text())["not_annotated"] == list(report.not_annotated)
    monkeypatch.setattr(audit_result, "MAX_NOT_ANNOTATED", 2)
    _, report = checked(picture, [annotated("a.jpg"), *map(annotated, names[:5])])
    assert (report.num_not_annotated, report.not_annotated) == (3, ("b5.jpg", "b6.jpg"))
    assert report.names_not_annotated(5) == "b5.jpg, b6.jpg, ..."


@pytest.mark.parametrize(
    ("on_disk", "listed", "in_manifest"),
    [
        (unicodedata.normalize("NFD", "영수증.jpg"), "영수증.jpg", "영수증.jpg"),
        ("영수증.jpg", unicodedata.normalize("NFD", "영수증.jpg"), unicodedata.normalize("NFD", "영수증.jpg")),
        ("IMG.JPG", "img.jpg", "img.jpg"),
        ("sub/a.jpg", "./sub/a.jpg", "sub/a.jpg"),
        ("sub/a.jpg", "sub\\a.jpg", "sub/a.jpg"),
    ],
)
def test_a_name_that_is_spelled_otherwise_finds_its_file(
    on_disk: str, listed: str, in_manifest: str, tmp_path: Path
) -> None:
    (tmp_path / on_disk).parent.mkdir(exist_ok=True)
    (tmp_path / on_disk).write_bytes(encoded())
    manifest, report = checked(tmp_path, [annotated(listed, SQUARE)])
    assert manifest.image_paths == (str(tmp_path / on_disk),)
    assert manifest.filenames == (in_manifest,)
    (finding,) = report.findings
    assert (finding.kind, finding.severity) == ("other_spelling", "note")
    assert report.num_not_annotated == 0


def test_a_name_that_fits_two_files_is_an_error_that_names_both(tmp_path: Path) -> None:
    for name in ("a.jpg", "A.jpg"):
        (tmp_path / name).write_bytes(encoded())
    with pytest.raises(BadDataError, match=r"ambiguous_name: found two files that fit this name: A\.jpg and a\.jpg"):
        checked(tmp_path, [annotated("a.JPG", SQUARE)])


def test_two_spellings_of_one_file_are_two_entries_for_it(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded())
    with pytest.raises(BadDataError, match=r"listed_twice: found 2 entries"):
        checked(tmp_path, [annotated("a.jpg", SQUARE), annotated("A.jpg", SQUARE)])
