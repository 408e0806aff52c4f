"""The same faults in every format: normalised coordinates, other encodings, other names, and images of several pictures."""

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from ocr.datasets.audit import load_manifest
from ocr.datasets.manifest import Manifest
from ocr.datasets.schemas import DatasetConfig
from ocr.errors import InputError

WIDTH, HEIGHT = 200, 100
Points = list[list[float]]
WORDS: list[Points] = [[[20, y], [100, y], [100, y + 20], [20, y + 20]] for y in (10, 40, 70)]
PARTS: list[Points] = [[[x / WIDTH, y / HEIGHT] for x, y in word] for word in WORDS]


def flat(points: Points) -> list[float]:
    return [value for point in points for value in point]


def coco(words: list[Points], name: str) -> str:
    image = {"id": 1, "file_name": name, "width": WIDTH, "height": HEIGHT}
    annotations = [
        {"id": number, "image_id": 1, "category_id": 1, "segmentation": [flat(word)], "iscrowd": 0}
        for number, word in enumerate(words)
    ]
    return json.dumps({"images": [image], "categories": [{"id": 1, "name": "text"}], "annotations": annotations})


def mmocr(words: list[Points], name: str) -> str:
    instances = [{"polygon": flat(word), "bbox_label": 0, "ignore": False} for word in words]
    image = {"img_path": name, "height": HEIGHT, "width": WIDTH, "instances": instances}
    return json.dumps({"metainfo": {}, "data_list": [image]})


def paddleocr(words: list[Points], name: str) -> str:
    return f"{name}\t{json.dumps([{'transcription': 'A', 'points': word} for word in words])}\n"


def doctr(words: list[Points], name: str) -> str:
    return json.dumps({name: {"img_dimensions": [HEIGHT, WIDTH], "img_hash": "", "polygons": words}})


def labelme(words: list[Points], name: str) -> str:
    shapes = [{"label": "text", "shape_type": "polygon", "points": word} for word in words]
    size = {"imagePath": name, "imageWidth": WIDTH, "imageHeight": HEIGHT, "imageData": None}
    return json.dumps({"version": "5.0", "flags": {}, "shapes": shapes} | size)


def cvat(words: list[Points], name: str, encoding: str = "utf-8") -> str:
    polygons = "".join(f'<polygon label="text" points="{";".join(f"{x},{y}" for x, y in word)}"/>' for word in words)
    image = f'<image id="0" name="{name}" width="{WIDTH}" height="{HEIGHT}">{polygons}</image>'
    return f'<?xml version="1.0" encoding="{encoding}"?><annotations><version>1.1</version>{image}</annotations>'


def page_xml(words: list[Points], name: str) -> str:
    lines = "".join(
        f'<TextLine id="l{number}"><Coords points="{" ".join(f"{x},{y}" for x, y in word)}"/></TextLine>'
        for number, word in enumerate(words)
    )
    return (
        '<?xml version="1.0"?><PcGts xmlns="http://schema.primaresearch.org/PAGE/gts/pagecontent/2019-07-15">'
        f'<Page imageFilename="{name}" imageWidth="{WIDTH}" imageHeight="{HEIGHT}">'
        f'<TextRegion id="r"><Coords points="0,0 200,0 200,100"/>{lines}</TextRegion></Page></PcGts>'
    )


def icdar(words: list[Points], name: str) -> str:
    return "".join(f"{','.join(map(str, flat(word)))},A\n" for word in words)


FORMS: dict[str, tuple[Callable[[list[Points], str], str], str]] = {
    "coco": (coco, "labels.json"),
    "mmocr": (mmocr, "labels.json"),
    "paddleocr": (paddleocr, "Label.txt"),
    "doctr": (doctr, "labels.json"),
    "labelme": (labelme, "gt/a.json"),
    "cvat": (cvat, "annotations.xml"),
    "page_xml": (page_xml, "gt/a.xml"),
    "icdar": (icdar, "gt/gt_a.txt"),
}
"""Writer of each format, and path of its file; of a file in a folder, the folder is the annotation path."""


def load(root: Path, form: str, content: str | bytes, on_disk: str = "a.jpg", file: str | None = None) -> Manifest:
    (root / "images").mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save(root / "images" / on_disk, "JPEG")
    path = root / (file or FORMS[form][1])
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    config = DatasetConfig(
        image_path=str(root / "images"),
        annotation_path=str(path if path.parent == root else path.parent),
        audit_memo="off",
    )
    return load_manifest(config, max_megapixels=1)[0]


@pytest.mark.parametrize("form", FORMS)
def test_normalised_coordinates_are_named_in_every_format(form, tmp_path):
    with pytest.raises(
        InputError, match=r"normalised: found coordinates from 0 to 1 in all 3 words.*pixels of 200 x 100"
    ):
        load(tmp_path, form, FORMS[form][0](PARTS, "a.jpg"))


@pytest.mark.parametrize("form", FORMS)
def test_every_format_is_read_in_utf_16(form, tmp_path):
    write = FORMS[form][0]
    text = cvat(WORDS, "a.jpg", "utf-16") if form == "cvat" else write(WORDS, "a.jpg")
    assert load(tmp_path, form, text.encode("utf-16")).polygons.num_polygons == 3


@pytest.mark.parametrize("form", [form for form in FORMS if form != "icdar"])
@pytest.mark.parametrize(
    ("written", "on_disk"),
    [
        ("..\\images\\a.jpg", "a.jpg"),
        ("A.JPG", "a.jpg"),
        ("C:\\scans\\a.jpg", "a.jpg"),
        (unicodedata.normalize("NFC", "영수증.jpg"), unicodedata.normalize("NFD", "영수증.jpg")),
    ],
)
def test_another_form_of_a_name_finds_the_image(form, written, on_disk, tmp_path):
    file = FORMS[form][1]
    if file.startswith("gt/"):  # labelme and PAGE-XML may also name the image by their own file
        file = f"gt/{Path(on_disk).stem}{Path(file).suffix}"
    manifest = load(tmp_path, form, FORMS[form][0](WORDS, written), on_disk, file)
    assert (len(manifest), manifest.polygons.num_polygons) == (1, 3)


@pytest.mark.parametrize(("ending", "kind"), [(".gif", "GIF"), (".webp", "WebP"), (".png", "PNG"), (".tif", "TIFF")])
def test_a_file_of_several_pictures_is_refused_by_name(ending, kind, tmp_path):
    first = Image.new("RGB", (WIDTH, HEIGHT), "red")
    first.save(tmp_path / f"a{ending}", save_all=True, append_images=[Image.new("RGB", (WIDTH, HEIGHT), "blue")])
    config = DatasetConfig(image_path=str(tmp_path), audit_memo="off")
    with pytest.raises(InputError, match=rf"a\{ending}: unsupported: found an? (animated )?{kind} of 2 (pages|frames)"):
        load_manifest(config, max_megapixels=1)


def test_a_photo_with_a_second_picture_behind_it_is_read_as_its_first(tmp_path):
    """Phones write such files (MPO) with the ending .jpg."""
    first = Image.new("RGB", (WIDTH, HEIGHT), "red")
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[Image.new("RGB", (100, 50), "blue")])
    manifest = load_manifest(DatasetConfig(image_path=str(tmp_path), audit_memo="off"), max_megapixels=1)[0]
    assert manifest.original_sizes.tolist() == [[HEIGHT, WIDTH]]
