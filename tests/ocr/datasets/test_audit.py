import io
import json
import logging
import struct
from pathlib import Path
from typing import Any

import numpy as np
import nvidia.dali.fn as fn
import nvidia.dali.types as types
import pytest
from nvidia.dali import pipeline_def
from PIL import Image

from ocr.datasets.audit import build_manifest
from ocr.datasets.audit_report import AuditReport, BadDataError, Finding
from ocr.datasets.formats.annotated import AnnotatedImage, AnnotatedWord, FormatProblem
from ocr.datasets.formats.upstage import read_upstage
from ocr.datasets.manifest import Manifest

EXTENSIONS = (".jpg", ".jpeg", ".png")
SQUARE = [(2, 2), (12, 2), (12, 9), (2, 9)]


def encoded(
    width: int = 40, height: int = 30, image_format: str = "JPEG", orientation: int = 1, **options: Any
) -> bytes:
    """A small picture with some structure."""
    ys, xs = np.mgrid[:height, :width]
    levels = np.stack([xs * 5 % 256, ys * 7 % 256, (xs * ys) % 256], axis=-1).astype(np.uint8)
    exif = Image.Exif()
    if orientation != 1:
        exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, image_format, exif=exif, **options)
    return buffer.getvalue()


def annotated(filename: str, *polygons: Any, size: tuple[int | None, int | None] = (None, None)) -> AnnotatedImage:
    words = (AnnotatedWord(f"{i:04d}", np.array(points, np.float64)) for i, points in enumerate(polygons, 1))
    return AnnotatedImage(filename, "train.json", tuple(words), size)


def checked(folder: Path, images: list[AnnotatedImage] | None, **options: Any) -> tuple[Manifest, AuditReport]:
    return build_manifest(folder, images, extensions=EXTENSIONS, num_threads=2, **options)


def only_finding(folder: Path, *images: AnnotatedImage, **options: Any) -> Finding:
    """The one finding on these images, which leaves at least the good image usable."""
    (folder / "good.jpg").write_bytes(encoded())
    _, report = checked(folder, [*images, annotated("good.jpg")], on_bad_sample="skip", **options)
    (finding,) = report.findings
    return finding


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A folder with a.jpg, 40 wide and 30 high."""
    (tmp_path / "a.jpg").write_bytes(encoded())
    return tmp_path


# Image files


def test_every_odd_jpeg_ends_as_its_manifest_says(odd_jpegs: Path) -> None:
    files = json.loads((odd_jpegs / "manifest.json").read_text())["files"]
    manifest, report = checked(odd_jpegs, [AnnotatedImage(file["file"], "manifest.json") for file in files])
    kept = dict(zip(manifest.filenames, range(len(manifest)), strict=True))
    refused = {finding.image for finding in report.findings if finding.severity == "image"}
    for file in files:
        assert (file["file"] in kept) == file["is_decodable_jpeg"], file["what"]
        assert (file["file"] in refused) != file["is_decodable_jpeg"], file["what"]
        if file["file"] in kept:
            index = kept[file["file"]]
            assert manifest.stored_sizes[index, ::-1].tolist() == file["stored_size_wh"]
            assert manifest.orientations[index] == file.get("exif_orientation", 1)
            upright = file.get("size_after_exif_wh", file["stored_size_wh"])
            assert manifest.original_sizes[index, ::-1].tolist() == upright
    assert len(files) == 50
    assert report.statistics["coding"] == {"baseline": 33, "progressive": 2, "arithmetic": 1}
    assert report.statistics["color"] == {"YCbCr": 31, "gray": 3, "CMYK": 1, "RGB": 1}
    assert report.statistics["sampling"]["4:1:0"] == 1


@pytest.mark.parametrize(
    ("name", "kind", "found"),
    [
        ("truncated_half.jpg", "truncated", "Premature end of JPEG file"),
        ("truncated_last_bytes.jpg", "truncated", "Premature end of JPEG file"),
        ("truncated_header.jpg", "truncated", "the end of the file where more has to follow"),
        ("corrupt_scan.jpg", "damaged", "20 extraneous bytes before marker"),
        ("height_mismatch.jpg", "damaged", "premature end of data segment"),
        ("zero_byte.jpg", "empty", "a file of 0 bytes"),
        ("text_renamed.jpg", "not_an_image", "bytes b'this is '"),
        ("random_bytes.jpg", "not_an_image", "bytes b"),
        ("leading_garbage.jpg", "not_an_image", "a JPEG from byte 16 on"),
        ("png_renamed.jpg", "wrong_extension", "PNG content"),
        ("webp_renamed.jpg", "not_an_image", "WebP content"),
        ("gif_renamed.jpg", "not_an_image", "GIF content"),
        ("huge_header_65500.jpg", "bad_dimensions", "65500 x 65500 pixels"),
        ("zero_header.jpg", "bad_dimensions", "0 x 0 pixels"),
        ("no_such_file.jpg", "missing", "nothing there"),
    ],
)
def test_a_bad_file_is_refused_for_its_own_reason(odd_jpegs: Path, name: str, kind: str, found: str) -> None:
    _, report = checked(odd_jpegs, [annotated(name), annotated("baseline_420.jpg")])
    (finding,) = report.findings
    assert (finding.image, finding.kind, finding.severity) == (name, kind, "image")
    assert found in finding.found


@pytest.mark.parametrize("device", ["cpu", pytest.param("mixed", marks=pytest.mark.gpu)])
def test_dali_decodes_every_accepted_odd_jpeg_at_the_size_of_the_manifest(odd_jpegs: Path, device: str) -> None:
    manifest, _ = checked(odd_jpegs, None)
    pictures = dali_upright(list(manifest.image_paths), device)
    for picture, size, name in zip(pictures, manifest.original_sizes, manifest.filenames, strict=True):
        assert picture.shape == (*size, 3), name
    reference = pictures[manifest.filenames.index("exif_1.jpg")].astype(int)
    for orientation in range(2, 9):
        turned = pictures[manifest.filenames.index(f"exif_{orientation}.jpg")]
        assert np.abs(turned - reference).mean() < 6, orientation


def dali_upright(paths: list[str], device: str) -> list[np.ndarray]:
    names = [np.frombuffer(path.encode(), np.uint8) for path in paths]

    @pipeline_def(batch_size=len(paths), num_threads=2, device_id=0 if device == "mixed" else None)
    def pipeline() -> Any:
        data = fn.io.file.read(fn.external_source(source=lambda: names))
        return fn.decoders.image(data, device=device, output_type=types.RGB, adjust_orientation=True)

    instance = pipeline(prefetch_queue_depth=1)
    instance.build()
    (output,) = instance.run()
    output = output.as_cpu()
    return [np.array(output[i]) for i in range(len(paths))]


def test_words_of_all_exif_orientations_sit_on_the_drawn_words(odd_jpegs: Path) -> None:
    entries = {file["file"]: file for file in json.loads((odd_jpegs / "manifest.json").read_text())["files"]}
    names = [f"exif_{orientation}.jpg" for orientation in range(1, 9)]
    manifest, _ = checked(odd_jpegs, [annotated(name, *entries[name]["words_in_stored_pixels"]) for name in names])
    reference = corners(manifest, 0)
    for index, picture in enumerate(dali_upright(list(manifest.image_paths), "cpu")):
        boxes = corners(manifest, index)
        assert len(boxes) == 25
        np.testing.assert_allclose(boxes, reference, atol=1)
        is_dark = picture.mean(axis=2) < 128
        is_word = np.zeros(is_dark.shape, bool)
        for x0, y0, x1, y1 in boxes.astype(int):
            assert is_dark[y0:y1, x0:x1].mean() > 0.15  # ink
            is_word[y0 - 1 : y1 + 1, x0 - 1 : x1 + 1] = True
        rows = slice(60, 255)  # above and below, the picture has a mark in two corners that is no text
        assert is_dark[rows][~is_word[rows]].mean() < 0.001


def corners(manifest: Manifest, image: int) -> np.ndarray:
    """(n, 4) left, top, right, bottom of an image's polygons."""
    polygons = np.stack(manifest.polygons.polygons_of(image))
    return np.concatenate([polygons.min(axis=1), polygons.max(axis=1)], axis=1)


def test_one_bad_file_among_500_costs_that_file_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = encoded()
    for i in range(500):
        (tmp_path / f"{i:03d}.jpg").write_bytes(good[: len(good) // 2] if i == 137 else good)
    images = [annotated(f"{i:03d}.jpg", [(i % 9, 0), (30, 0), (30, 20)]) for i in range(500)]
    with caplog.at_level(logging.WARNING):
        manifest, report = checked(tmp_path, images, report_path=tmp_path / "report" / "audit.json")
    assert manifest.sample_ids.tolist() == [i for i in range(500) if i != 137]
    assert (len(manifest), manifest.num_listed, report.num_images) == (499, 500, 499)
    assert manifest.polygons.polygons_of(137)[0][0].tolist() == [138 % 9, 0]
    assert [(finding.image, finding.kind) for finding in report.findings] == [("137.jpg", "truncated")]
    assert "train.json (137.jpg): truncated: found" in caplog.text
    written = json.loads((tmp_path / "report" / "audit.json").read_text())
    assert written["counts"] == {"truncated": 1}
    assert written["findings"][0]["image"] == "137.jpg"
    assert written["findings"][0]["advice"] == "copy or scan it again"


@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        ("truncated", lambda data: data[:-20]),
        ("damaged", lambda data: data[:-13] + bytes([data[-13] ^ 1]) + data[-12:]),  # only a checksum
        ("damaged", lambda data: data[:60] + bytes([data[60] ^ 1]) + data[61:]),
        ("damaged", lambda data: data[:30] + bytes([data[30] ^ 1]) + data[31:]),
    ],
)
def test_a_damaged_png_is_refused(tmp_path: Path, kind: str, damage: Any) -> None:
    (tmp_path / "a.png").write_bytes(damage(encoded(image_format="PNG")))
    assert only_finding(tmp_path, annotated("a.png")).kind == kind


def test_a_turned_png_has_the_orientation_that_dali_applies(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(40, 30, "PNG", orientation=6))
    manifest, report = checked(tmp_path, None)
    assert manifest.orientations.tolist() == [6]
    assert dali_upright(list(manifest.image_paths), "cpu")[0].shape == (*manifest.original_sizes[0], 3) == (40, 30, 3)
    assert report.statistics["format"] == {"PNG": 1}


def with_segment(data: bytes, marker: int, payload: bytes) -> bytes:
    """The JPEG with one more segment right after its start."""
    return data[:2] + struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload + data[2:]


def test_two_exif_blocks_that_disagree_are_refused_since_they_crash_dali(tmp_path: Path) -> None:
    block = b"Exif\0\0MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, 3, 0, 0)
    (tmp_path / "a.jpg").write_bytes(with_segment(encoded(orientation=6), 0xE1, block))
    finding = only_finding(tmp_path, annotated("a.jpg"))
    assert (finding.kind, finding.found) == ("ambiguous_orientation", "EXIF blocks that say [3, 6]")


def test_an_exif_tag_of_the_wrong_type_is_refused(tmp_path: Path) -> None:
    block = b"Exif\0\0MM\0*" + struct.pack(">IHHHIII", 8, 1, 0x0112, 4, 1, 6, 0)
    (tmp_path / "a.jpg").write_bytes(with_segment(encoded(), 0xE1, block))
    assert only_finding(tmp_path, annotated("a.jpg")).kind == "ambiguous_orientation"


def test_an_odd_header_with_whole_pixels_is_only_a_note(tmp_path: Path) -> None:
    data = bytearray(encoded())
    assert data[6:10] == b"JFIF"
    data[11] = 3  # a revision that does not exist
    (tmp_path / "a.jpg").write_bytes(data)
    manifest, report = checked(tmp_path, None)
    assert [(finding.kind, finding.severity) for finding in report.findings] == [("decoder_warning", "note")]
    assert dali_upright(list(manifest.image_paths), "cpu")[0].shape == (30, 40, 3)


def test_lossless_and_12_bit_jpegs_are_refused(tmp_path: Path) -> None:
    data = encoded()
    frame = data.index(b"\xff\xc0")
    (tmp_path / "a.jpg").write_bytes(data[: frame + 1] + b"\xc3" + data[frame + 2 :])
    (tmp_path / "b.jpg").write_bytes(data[: frame + 4] + b"\x0c" + data[frame + 5 :])
    for name in ("a.jpg", "b.jpg"):
        assert only_finding(tmp_path, annotated(name)).kind == "unsupported"


def test_an_extension_that_is_not_asked_for_and_a_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(encoded(image_format="TIFF"))
    (tmp_path / "b.jpg").mkdir()
    assert only_finding(tmp_path, annotated("a.tif")).found == "the extension '.tif'"
    finding = only_finding(tmp_path, annotated("b.jpg"))
    assert (finding.kind, finding.found) == ("missing", "a folder")


def test_a_file_that_the_system_refuses_to_open_is_named(tmp_path: Path) -> None:
    finding = only_finding(tmp_path, annotated("a" * 300 + ".jpg"))
    assert (finding.kind, finding.found) == ("unreadable", "File name too long")


def test_the_pixel_limit_is_inclusive_and_read_from_the_header(picture: Path) -> None:
    assert checked(picture, None, max_megapixels=0.0012)[1].findings == ()
    (picture / "b.jpg").write_bytes(encoded(41, 30))
    _, report = checked(picture, None, max_megapixels=0.0012)
    assert [(finding.image, finding.kind) for finding in report.findings] == [("b.jpg", "bad_dimensions")]
    assert report.findings[0].found == "41 x 30 pixels in the header"


def test_without_pixel_check_only_headers_are_read(odd_jpegs: Path) -> None:
    images = [annotated("corrupt_scan.jpg"), annotated("truncated_header.jpg"), annotated("truncated_half.jpg")]
    manifest, report = checked(odd_jpegs, images, check_pixels=False)
    assert manifest.filenames == ("corrupt_scan.jpg", "truncated_half.jpg")
    assert report.counts == {"truncated": 1}


# Annotations


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
        # Its box meets the picture's corner, the triangle does not.
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
    images = [annotated("a.jpg", SQUARE), annotated("b.jpg"), annotated("./a.jpg")]
    manifest, report = checked(picture, images, on_bad_sample="skip")
    assert manifest.filenames == ("b.jpg",)
    assert manifest.sample_ids.tolist() == [1]
    assert report.counts == {"listed_twice": 2}


def test_problems_of_the_reader_are_findings_with_their_place(picture: Path) -> None:
    image = AnnotatedImage(
        "a.jpg", "gt_a.txt", problems=(FormatProblem("12", "3 numbers", "8 (a quad)"),), keys_are_lines=True
    )
    finding = only_finding(picture, image)
    assert str(finding) == (
        "gt_a.txt:12 (a.jpg): malformed: found 3 numbers; expected 8 (a quad); correct the annotation"
    )


# Frames


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


# The whole split


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
    with pytest.raises(BadDataError, match=r"1 findings\n.*gone\.jpg"):
        checked(picture, images, on_bad_sample="error")


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


def test_a_roundabout_folder_name_changes_nothing(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_the_real_sets_have_no_findings(name: str, split: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(name)
    annotations = read_upstage(folder / "jsons" / f"{split}.json")
    manifest, report = checked(folder / "images" / split, annotations, on_bad_sample="error")
    assert report.findings == ()
    assert len(manifest) == manifest.num_listed == len(annotations)
    assert manifest.polygons.num_polygons == report.num_words == sum(len(image.words) for image in annotations)
    assert report.num_not_annotated == 0


def test_the_summary_names_counts_and_shares(picture: Path) -> None:
    (picture / "[red].jpg").write_bytes(encoded(image_format="JPEG", progressive=True))
    _, report = checked(picture, [annotated("a.jpg", SQUARE), annotated("[red].jpg"), annotated("gone.jpg")])
    summary = report.summary().plain
    assert "2 of 3 images usable, 1 words, 0 of them don't-care" in summary
    assert "coding: baseline 50.0%, progressive 50.0%" in summary
    assert "missing: 1" in summary
