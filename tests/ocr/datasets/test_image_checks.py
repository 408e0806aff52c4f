"""Image files that a decoder would refuse, or that decoders would read differently, are reported by name."""

import json
import logging
import struct
from concurrent.futures import ThreadPoolExecutor, TimeoutError
from pathlib import Path
from typing import Any

import numpy as np
import nvidia.dali.fn as fn
import nvidia.dali.types as types
import pytest
from nvidia.dali import pipeline_def
from PIL import Image

from ocr.datasets.audit import load_manifest
from ocr.datasets.formats.annotated import AnnotatedImage
from ocr.datasets.image_checks import decoding_slot
from ocr.datasets.image_header import ImageHeader, read_header
from ocr.datasets.manifest import Manifest
from ocr.datasets.schemas import DatasetConfig
from tests.ocr.datasets.audits import annotated, checked, encoded, only_finding


def test_every_odd_jpeg_is_judged_as_its_manifest_says(odd_jpegs: Path) -> None:
    files = json.loads((odd_jpegs / "manifest.json").read_text())["files"]
    manifest, report = checked(odd_jpegs, [AnnotatedImage(file["file"], "manifest.json") for file in files])
    kept = dict(zip(manifest.filenames, range(len(manifest)), strict=True))
    refused = {finding.image for finding in report.findings if finding.severity == "image"}
    other_formats = {"png_renamed.jpg", "webp_renamed.jpg", "gif_renamed.jpg"}
    for file in files:
        is_readable = file["is_decodable_jpeg"] or file["file"] in other_formats
        assert (file["file"] in kept) == is_readable, file["what"]
        assert (file["file"] in refused) != is_readable, file["what"]
        if file["file"] in kept:
            index = kept[file["file"]]
            assert manifest.stored_sizes[index, ::-1].tolist() == file["stored_size_wh"]
            assert manifest.orientations[index] == file.get("exif_orientation", 1)
            upright = file.get("size_after_exif_wh", file["stored_size_wh"])
            assert manifest.original_sizes[index, ::-1].tolist() == upright
    assert len(files) == 50
    assert report.statistics["coding"] == {
        "baseline": 33,
        "progressive": 2,
        "-": 2,
        "sequential": 1,
        "arithmetic": 1,
    }
    assert report.statistics["color"] == {"YCbCr": 31, "gray": 3, "RGB": 3, "palette": 1, "CMYK": 1}
    assert report.counts["wrong_extension"] == 3
    assert report.statistics["sampling"]["4:1:0"] == 1


@pytest.mark.parametrize(
    ("name", "kind", "found"),
    [
        ("truncated_half.jpg", "truncated", "Premature end of JPEG file"),
        ("truncated_last_bytes.jpg", "truncated", "Premature end of JPEG file"),
        ("truncated_header.jpg", "truncated", "the end of the file too early"),
        ("corrupt_scan.jpg", "damaged", "20 extraneous bytes before marker"),
        ("height_mismatch.jpg", "damaged", "premature end of data segment"),
        ("zero_byte.jpg", "empty", "a file of 0 bytes"),
        ("text_renamed.jpg", "not_an_image", "bytes b'this is '"),
        ("random_bytes.jpg", "not_an_image", "bytes b"),
        ("leading_garbage.jpg", "not_an_image", "a JPEG from byte 16 on"),
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
    manifest, _ = load_manifest(DatasetConfig(image_path=str(odd_jpegs)), max_megapixels=100)
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


def test_dali_reads_the_stored_size_of_the_manifest_from_every_accepted_odd_jpeg(odd_jpegs: Path) -> None:
    """A GPU's graph decodes no file of another size: `steps.as_audited`."""
    manifest, _ = load_manifest(DatasetConfig(image_path=str(odd_jpegs)), max_megapixels=100)
    names = [np.frombuffer(path.encode(), np.uint8) for path in manifest.image_paths]

    @pipeline_def(batch_size=len(names), num_threads=2, device_id=None)
    def pipeline() -> Any:
        return fn.peek_image_shape(fn.io.file.read(fn.external_source(source=lambda: names)), adjust_orientation=False)

    (shapes,) = pipeline(prefetch_queue_depth=1).run()
    np.testing.assert_array_equal(shapes.as_array()[:, :2], manifest.stored_sizes)


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
        rows = slice(60, 255)  # leaves out the marks in two corners, which are not text
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


def test_an_extension_that_is_not_configured_and_a_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(encoded())
    (tmp_path / "b.jpg").mkdir()
    assert only_finding(tmp_path, annotated("a.txt")).found == "the extension '.txt'"
    finding = only_finding(tmp_path, annotated("b.jpg"))
    assert (finding.kind, finding.found) == ("missing", "a folder")


def test_a_file_that_the_system_refuses_to_open_is_named(tmp_path: Path) -> None:
    finding = only_finding(tmp_path, annotated("sub/" * 1020 + "a.jpg"))
    assert (finding.kind, finding.found) == ("unreadable", "File name too long")


def test_a_progressive_jpeg_of_very_many_scans_is_not_decoded(picture: Path) -> None:
    Image.new("L", (300, 200), 90).save(picture / "b.jpg", progressive=True)
    content = (picture / "b.jpg").read_bytes()
    (picture / "b.jpg").write_bytes(content[:-2] + content[content.rfind(b"\xff\xda") : -2] * 100 + content[-2:])
    _, report = checked(picture, None)
    assert [(finding.image, finding.kind) for finding in report.findings] == [("b.jpg", "too_many_scans")]
    assert report.findings[0].found == f"a progressive JPEG of {content.count(bytes([0xFF, 0xDA])) + 100} scans"


def test_the_pixel_limit_is_inclusive_and_read_from_the_header(picture: Path) -> None:
    assert checked(picture, None, max_megapixels=0.0012)[1].findings == ()
    (picture / "b.jpg").write_bytes(encoded(41, 30))
    _, report = checked(picture, None, max_megapixels=0.0012)
    assert [(finding.image, finding.kind) for finding in report.findings] == [("b.jpg", "bad_dimensions")]
    assert report.findings[0].found == "41 x 30 pixels"


def test_without_pixel_check_only_headers_are_read(odd_jpegs: Path) -> None:
    images = [annotated("corrupt_scan.jpg"), annotated("truncated_header.jpg"), annotated("truncated_half.jpg")]
    manifest, report = checked(odd_jpegs, images, check_pixels=False)
    assert manifest.filenames == ("corrupt_scan.jpg", "truncated_half.jpg")
    assert report.counts == {"truncated": 1}


def _decode(header: ImageHeader) -> None:
    with decoding_slot(header):
        pass


def test_only_two_large_images_are_decoded_at_once(tmp_path: Path) -> None:
    Image.new("L", (6000, 5000)).save(tmp_path / "large.png")
    with (tmp_path / "large.png").open("rb") as stream:
        header = read_header(stream)
    with ThreadPoolExecutor(1) as pool, decoding_slot(header):
        with decoding_slot(header):
            third = pool.submit(_decode, header)
            with pytest.raises(TimeoutError):
                third.result(0.2)
        third.result(60)
