"""Text files as they come: cases of ../shared/cases, and drawn siblings of each kind. Each is read right, or refused in one line
that names what it looks like."""

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ocr.datasets.audit import load_manifest
from ocr.datasets.audit_report import BadDataError
from ocr.datasets.formats.image_folder import ImageFolder
from ocr.datasets.formats.look import look_at
from ocr.datasets.formats.read import FORMATS, find_format
from ocr.datasets.schemas import DatasetConfig
from ocr.errors import InputError
from tests.ocr.datasets.formats.example_set import EXTENSIONS, SIZE, read, write_images

SHARED_CASES = Path(__file__).resolve().parents[5] / "shared" / "cases"
QUAD = "20,10,120,10,120,34,20,34"
QUAD_POINTS = [[20, 10], [120, 10], [120, 34], [20, 34]]


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not SHARED_CASES.is_dir():
        pytest.skip("the cases are not at ../shared/cases")
    return Path(shutil.copytree(SHARED_CASES, tmp_path_factory.mktemp("cases") / "cases"))


def test_shared_case_mlt_script_column(cases: Path) -> None:
    folder = cases / "mlt_script_column"
    for name in ("auto", "mlt", "icdar"):
        found = read(folder / "gt", ImageFolder(folder / "img", EXTENSIONS), name)
        assert [[word.ignore for word in image.words] for image in found] == [[False, True, True]] * 3


def test_shared_case_ctw1500_offsets(cases: Path) -> None:
    folder = cases / "ctw1500_offsets"
    found = read(folder / "gt", ImageFolder(folder / "img", EXTENSIONS))
    assert [[len(word.points) for word in image.words] for image in found] == [[14, 14]] * 3
    np.testing.assert_array_equal(found[0].words[0].points[[0, 6, 7]], [[40, 46], [160, 46], [160, 70]])
    config = DatasetConfig(image_path=str(folder / "img"), annotation_path=str(folder / "gt"))
    assert load_manifest(config, max_megapixels=100)[1].findings == ()


def test_shared_case_db_list_layout(cases: Path) -> None:
    folder = cases / "db_list_layout"
    found = read(folder / "train_gts", ImageFolder(folder / "train_images", EXTENSIONS))
    assert [image.filename for image in found] == ["img_0.jpg", "img_1.jpg", "img_2.jpg"]
    assert [[word.ignore for word in image.words] for image in found] == [[False, True]] * 3


def test_shared_case_boxes_xywh(cases: Path) -> None:
    folder = cases / "boxes_xywh"
    images = ImageFolder(folder / "img", EXTENSIONS)
    with pytest.raises(InputError, match=r"18 of 18 rectangles .* fit x,y,width,height \(annotation_format=xywh\)$"):
        read(folder / "gt", images)
    found = read(folder / "gt", images, "xywh")
    np.testing.assert_array_equal(found[0].words[0].points, [[94, 11], [175, 11], [175, 28], [94, 28]])


def texts(tmp_path: Path, content: str | bytes, name: str = "gt_img_1.txt") -> tuple[Path, ImageFolder]:
    """Writes one text file with one image, and returns the folder of the texts and the images."""
    (tmp_path / "gt").mkdir(parents=True)
    (tmp_path / "gt" / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return tmp_path / "gt", write_images(tmp_path / "img", ["img_1.jpg"])


def rows(*lines: str, end: str = "\n") -> str:
    return "".join(line + end for line in lines)


MARKED = {
    "script": rows(f"{QUAD},Latin,A", f"{QUAD},None,###"),
    "script_in_lower_case": rows(f"{QUAD},latin,A", f"{QUAD},korean,###"),
    "script_in_quotes": rows(f'{QUAD},Latin,"A"', f'{QUAD},Latin,"###"'),
    "script_and_star": rows(f"{QUAD},Latin,A", f"{QUAD},Latin,*"),
    "script_and_comma_in_text": rows(f"{QUAD},Latin,A,###", f"{QUAD},Latin,###"),
    "script_with_blanks": rows(f"{QUAD}, Latin, A", f"{QUAD}, Latin, ###"),
    "script_behind_tabs": rows(f"{QUAD},Latin,A", f"{QUAD},None,###").replace(",", "\t"),
    "script_behind_semicolons": rows(f"{QUAD},Latin,A", f"{QUAD},None,###").replace(",", ";"),
    "script_of_a_polygon": rows(f"{QUAD},10,30,Latin,A", f"{QUAD},10,30,Latin,###"),
    "script_of_a_rectangle": rows("20,10,120,34,Latin,A", "20,10,120,34,Latin,###"),
    "languages_in_25_lines": rows(*[f"{QUAD},th,A"] * 24, f"{QUAD},th,###"),
    "unknown_language_in_3_lines": rows(f"{QUAD},Thai,A", f"{QUAD},zh-Hans,B", f"{QUAD},Thai,###"),
    "score": rows(f'{QUAD},0,"A"', f'{QUAD},1,"###"'),
    "score_with_decimals": rows(f"{QUAD},0.98,A", f"{QUAD},0.5,###"),
    "comma_behind_the_mark": rows(f"{QUAD},A,", f"{QUAD},###,"),
    "single_quotes": rows(f"{QUAD},'A'", f"{QUAD},'###'"),
    "old_mac_line_ends": rows(f"{QUAD},A", f"{QUAD},###", end="\r"),
    "mark_of_total_text": rows(
        "x: [[20 120 120 20]], y: [[10 10 34 34]], ornt: [u'h'], transcriptions: [u'it''s #1']",
        "x: [[20 120 120 20]], y: [[10 10 34 34]], ornt: [u'#'], transcriptions: [u'#']",
    ),
    "orientation_of_total_text": rows(
        "x: [[20 120 120 20]], y: [[10 10\n 34 34]], ornt: [u'm'], transcriptions: [u\"it's\"]",
        "x: [[20 120 120 20]], y: [[10 10 34 34]], ornt: [u'#'], transcriptions: [u'lost']",
    ),
    "no_text_of_total_text": rows(
        "x: [[20, 120, 120, 20]], y: [[10, 10, 34, 34]], ornt: ['h'], transcriptions: ['A']",
        "x: [[20, 120, 120, 20]], y: [[10, 10, 34, 34]], ornt: [], transcriptions: []",
    ),
    "mark_of_ctw1500": rows(f"{QUAD},####A", f"{QUAD},#######"),
}


@pytest.mark.parametrize("name", MARKED)
def test_a_dont_care_mark_is_found_behind_whatever_stands_before_it(name: str, tmp_path: Path) -> None:
    (image,) = read(*texts(tmp_path, MARKED[name]))
    assert image.problems == ()
    ignored = [word.ignore for word in image.words]
    assert ignored == [False] * (len(ignored) - 1) + [True]
    for word in image.words:
        np.testing.assert_array_equal(word.points[:4], QUAD_POINTS)


@pytest.mark.parametrize("text", ["Latin", "### 1", "A,###", "#", "Latin,Latin,###", "1,###"])
def test_a_text_that_only_resembles_a_mark_is_text(text: str, tmp_path: Path) -> None:
    (image,) = read(*texts(tmp_path, rows(f"{QUAD},one", f"{QUAD},{text}", f"{QUAD},two words")))
    assert [word.ignore for word in image.words] == [False] * 3


READ_RIGHT = {
    "upper_case_extension": (rows(f"{QUAD},A"), "GT_IMG_1.TXT"),
    "image_name_with_extension": (rows(f"{QUAD},A"), "img_1.jpg.txt"),
    "image_name_with_prefix_and_extension": (rows(f"{QUAD},A"), "gt_img_1.jpg.txt"),
    "image_name_in_upper_case": (rows(f"{QUAD},A"), "IMG_1.JPG.txt"),
    "utf_16_little_endian": (("\ufeff" + rows(f"{QUAD},상점")).encode("utf-16-le"), "gt_img_1.txt"),
    "utf_16_big_endian": (("\ufeff" + rows(f"{QUAD},상점")).encode("utf-16-be"), "gt_img_1.txt"),
    "utf_16_without_a_mark": (rows(f"{QUAD},상점").encode("utf-16-le"), "gt_img_1.txt"),
    "another_8_bit_encoding": (rows(f"{QUAD},상점").encode("cp949"), "gt_img_1.txt"),
    "tabs": (rows(QUAD.replace(",", "\t") + "\tA, 1,2"), "gt_img_1.txt"),
    "semicolons": (rows(QUAD.replace(",", ";") + ";A; b"), "gt_img_1.txt"),
    "semicolons_and_decimal_commas": (rows("20,0;10,0;120,0;10,0;120,0;34,0;20,0;34,0;A"), "gt_img_1.txt"),
    "blanks": (rows(QUAD.replace(",", " ") + " A"), "gt_img_1.txt"),
    "byte_order_mark_in_the_middle": ("\ufeff" + rows(f"{QUAD},A", f"\ufeff{QUAD},B"), "gt_img_1.txt"),
    "every_field_in_quotes": (rows('"' + QUAD.replace(",", '","') + '","A"'), "gt_img_1.txt"),
    "counter_clockwise": (rows("20,10,20,34,120,34,120,10,A"), "gt_img_1.txt"),
}


@pytest.mark.parametrize("name", READ_RIGHT)
def test_encodings_separators_and_names_are_read(name: str, tmp_path: Path) -> None:
    (image,) = read(*texts(tmp_path, *READ_RIGHT[name]))
    assert (image.filename, image.problems) == ("img_1.jpg", ())
    for word in image.words:
        assert sorted(word.points.tolist()) == sorted(map(list, QUAD_POINTS))
        assert not word.ignore


PADDLEOCR = '[{"transcription": "A", "points": [[20, 10], [120, 10], [120, 34], [20, 34]]}]'
LABEL_FILES = {
    "windows_line_ends": f"img_1.jpg\t{PADDLEOCR}\r\n\r\n".encode(),
    "byte_order_mark": f"\ufeffimg_1.jpg\t{PADDLEOCR}\n".encode(),
    "utf_16": f"img_1.jpg\t{PADDLEOCR}\n".encode("utf-16"),
    "utf_16_without_a_mark": f"img_1.jpg\t{PADDLEOCR}\n".encode("utf-16-le"),
    "path_of_another_machine": f"/data/train/img_1.jpg\t{PADDLEOCR}\n".encode(),
    "windows_path": f"train\\img_1.jpg\t{PADDLEOCR}\n".encode(),
    "other_case": f"train/IMG_1.JPG\t{PADDLEOCR}\n".encode(),
}


@pytest.mark.parametrize("name", LABEL_FILES)
def test_label_files_of_paddleocr_are_read(name: str, tmp_path: Path) -> None:
    images = write_images(tmp_path / "img", ["img_1.jpg"])
    (tmp_path / "LABEL.TXT").write_bytes(LABEL_FILES[name])
    (image,) = read(tmp_path / "LABEL.TXT", images)
    assert (image.filename, image.problems) == ("img_1.jpg", ())
    np.testing.assert_array_equal(image.words[0].points, QUAD_POINTS)


def test_points_in_either_direction_cover_the_same_region(tmp_path: Path) -> None:
    for name, line in {"clockwise": f"{QUAD},A", "counter": "20,10,20,34,120,34,120,10,A"}.items():
        path, images = texts(tmp_path / name, rows(line))
        config = DatasetConfig(image_path=str(images.path), annotation_path=str(path))
        manifest, report = load_manifest(config, max_megapixels=100)
        assert report.findings == ()
        (polygon,) = manifest.polygons.polygons_of(0)
        assert sorted(polygon.tolist()) == sorted(map(list, QUAD_POINTS))


RECTANGLES = [(94, 11, 175, 28), (28, 47, 131, 64), (216, 183, 310, 200), (5, 120, 60, 137)]
"""Left, top, right, bottom."""
OTHER_RECTANGLES: dict[str, tuple[Callable[[int, int, int, int], tuple[float, ...]], str]] = {
    "corner_and_size": (
        lambda x1, y1, x2, y2: (x1, y1, x2 - x1, y2 - y1),
        r"fit x,y,width,height \(annotation_format=xywh\)$",
    ),
    "centre_and_size": (
        lambda x1, y1, x2, y2: ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1),
        r"fit centre x,centre y,width,height \(annotation_format=cxcywh\)$",
    ),
    "swapped_corners": (
        lambda x1, y1, x2, y2: (x2, y2, x1, y1),
        r"fit right,bottom,left,top \(write them as left,top,right,bottom\)$",
    ),
    "swapped_axes": (
        lambda x1, y1, x2, y2: (y1, x1, y2, x2),
        r"fit top,left,bottom,right \(write them as left,top,right,bottom\)$",
    ),
    "bottom_first": (lambda x1, y1, x2, y2: (x1, y2, x2, y1), "no other order of these numbers fits either$"),
}


@pytest.mark.parametrize("name", OTHER_RECTANGLES)
@pytest.mark.parametrize("text", ["", ",A", ",###"])
def test_rectangles_in_another_form_are_named(name: str, text: str, tmp_path: Path) -> None:
    convert, expected = OTHER_RECTANGLES[name]
    path, images = texts(tmp_path, rows(*[",".join(map(str, convert(*box))) + text for box in RECTANGLES]))
    with pytest.raises(InputError, match=r"found \d of 4 rectangles") as refused:
        read(path, images)
    assert refused.match(expected)


@pytest.mark.parametrize("form", ["xywh", "cxcywh"])
def test_rectangles_in_another_form_are_read_where_that_is_set(form: str, tmp_path: Path) -> None:
    convert = OTHER_RECTANGLES[{"xywh": "corner_and_size", "cxcywh": "centre_and_size"}[form]][0]
    path, images = texts(tmp_path, rows(*[",".join(map(str, convert(*box))) + ",###" for box in RECTANGLES]))
    (image,) = read(path, images, form)
    for word, (left, top, right, bottom) in zip(image.words, RECTANGLES, strict=True):
        np.testing.assert_array_equal(word.points, [[left, top], [right, top], [right, bottom], [left, bottom]])
        assert word.ignore


def test_one_wrong_rectangle_among_many_is_a_problem_of_its_line(tmp_path: Path) -> None:
    lines = ["10,10,60,30,A"] * 15
    (image,) = read(*texts(tmp_path, rows(*lines, "94,11,81,17,B")))
    assert len(image.words) == 15
    (problem,) = image.problems
    assert (problem.word, problem.found) == ("16", "94,11,81,17: right, bottom = 81, 17")


def shares(points: list[list[float]]) -> list[list[float]]:
    return [[x / SIZE[1], y / SIZE[0]] for x, y in points]


@pytest.mark.parametrize(
    "polygons",
    [[shares(QUAD_POINTS)], [shares(QUAD_POINTS)] * 5, [[[0.02, 0.01], [0.99, 0.02], [1.0, 0.98], [0.0, 1.03]]]],
)
def test_normalised_upstage_json_is_named(polygons: list[list[list[float]]], tmp_path: Path) -> None:
    images = write_images(tmp_path / "img", ["a.jpg", "b.jpg"])
    words = {str(index): {"points": points} for index, points in enumerate(polygons)}
    (tmp_path / "a.json").write_text(json.dumps({"images": {"a.jpg": {"words": words}, "b.jpg": {}}}))
    config = DatasetConfig(image_path=str(images.path), annotation_path=str(tmp_path / "a.json"))
    expected = (
        rf"1 finding\n.*a\.jpg.*normalised: found coordinates from 0 to 1 in all {len(polygons)} words.* 320 x 240"
    )
    with pytest.raises(BadDataError, match=expected):
        load_manifest(config, max_megapixels=100)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_upstage_json_is_read_in_other_encodings(encoding: str, tmp_path: Path) -> None:
    images = write_images(tmp_path / "img", ["상점.jpg"])
    document = {"images": {"상점.jpg": {"words": {"1": {"points": QUAD_POINTS}}}}}
    (tmp_path / "a.json").write_bytes(json.dumps(document, ensure_ascii=False).encode(encoding))
    config = DatasetConfig(image_path=str(images.path), annotation_path=str(tmp_path / "a.json"))
    manifest, _ = load_manifest(config, max_megapixels=100)
    assert (manifest.filenames[0], manifest.polygons.num_polygons) == ("상점.jpg", 1)


def test_normalised_quads_with_texts_are_named(tmp_path: Path) -> None:
    line = ",".join(f"{value:.4f}" for point in shares(QUAD_POINTS) for value in point) + ",A"
    path, images = texts(tmp_path, rows(line))
    config = DatasetConfig(image_path=str(images.path), annotation_path=str(path))
    with pytest.raises(BadDataError, match="normalised: found coordinates from 0 to 1 in all 1 words"):
        load_manifest(config, max_megapixels=100)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("frame", ["stored", "upright"])
def test_yolo_coordinates_belong_to_the_upright_image(orientation: int, frame: str, tmp_path: Path) -> None:
    images = write_images(tmp_path / "img", ["a.jpg"], orientation)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text("0 0 0 0.5 0 0.5 0.25 0 0.25\n")
    (tmp_path / "labels/classes.txt").write_text("text\n")
    config = DatasetConfig.model_validate(
        {"image_path": str(images.path), "annotation_path": str(tmp_path / "labels"), "annotation_frame": frame}
    )
    manifest, _ = load_manifest(config, max_megapixels=100)
    height, width = manifest.original_sizes[0]
    (polygon,) = manifest.polygons.polygons_of(0)
    assert sorted(polygon.tolist()) == sorted([[0, 0], [width / 2, 0], [width / 2, height / 4], [0, height / 4]])


NOT_ANNOTATIONS: dict[str, tuple[str | bytes, str]] = {
    "empty.json": ("", "found an empty file"),
    "broken.json": ('{"images": {]', "text that begins like JSON and is not JSON"),
    "photo.json": (b"\xff\xd8\xff\xe0" + bytes(50), "a JPEG image or another binary file"),
    "data.json": (b"PK\x03\x04" + bytes(50), "a ZIP archive; unpack it"),
    "list.json": ('["a.jpg", "b.jpg"]', r"""begins with '\["a.jpg", "b.jpg"\]'"""),
    "other.json": ('{"shapes": 3}', "begins with"),
    "list.txt": ("a.jpg\nb.jpg\n", "begins with 'a.jpg"),
}


@pytest.mark.parametrize("name", NOT_ANNOTATIONS)
def test_a_file_that_is_no_annotation_is_described_in_one_line(name: str, tmp_path: Path) -> None:
    content, expected = NOT_ANNOTATIONS[name]
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InputError, match=expected) as refused:
        read(tmp_path / name, ImageFolder(tmp_path, EXTENSIONS))
    assert "\n" not in str(refused.value)
    assert "which no reader knows; annotation_format is one of upstage, icdar" in str(refused.value)


@pytest.mark.parametrize("name", [one.name for one in FORMATS])
@pytest.mark.parametrize("wrong", NOT_ANNOTATIONS)
def test_no_reader_fails_with_a_traceback_on_a_wrong_file(name: str, wrong: str, tmp_path: Path) -> None:
    content, _ = NOT_ANNOTATIONS[wrong]
    (tmp_path / "gt").mkdir()
    for folder in (tmp_path, tmp_path / "gt"):
        (folder / wrong).write_bytes(content.encode() if isinstance(content, str) else content)
    for path in (tmp_path / wrong, tmp_path / "gt"):
        with contextlib.suppress(InputError, FileNotFoundError):
            read(path, ImageFolder(tmp_path, EXTENSIONS), name)


def test_one_text_file_is_answered_with_its_folder(tmp_path: Path) -> None:
    path, images = texts(tmp_path, rows(f"{QUAD},A"))
    for name in ("auto", "icdar"):
        with pytest.raises(InputError, match=r"give .*/gt, which looks like ICDAR 2013/2015 text files"):
            read(path / "gt_img_1.txt", images, name)


def test_a_folder_of_json_files_is_answered_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "val.json").write_text('{"images": {"a.jpg": {"words": {}}}}')
    for name in ("auto", "upstage"):
        with pytest.raises(InputError, match=r"give .*/val\.json, which looks like Upstage JSON"):
            read(tmp_path, ImageFolder(tmp_path, EXTENSIONS), name)


def test_two_formats_that_fit_equally_are_both_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    twin = find_format(look_at(texts(tmp_path, rows(f"{QUAD},A"))[0]))[0]
    other = type(twin)("twin", "Twin text files", "folder", twin.examine, twin.read)
    monkeypatch.setattr("ocr.datasets.formats.read.FORMATS", (twin, other))
    with pytest.raises(
        InputError, match=r"fits ICDAR .* and Twin .* equally well; say annotation_format=icdar or .*=twin"
    ):
        find_format(look_at(tmp_path / "gt"))
