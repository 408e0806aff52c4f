"""A data set written for other trainers holds the same polygons when it is read back."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shapely import Polygon

from ocr.command_line import compose_config
from ocr.config import PrepareConfig
from ocr.datasets.audit import load_manifest
from ocr.datasets.formats.writers import LAYOUTS, four_corners
from ocr.datasets.manifest import Manifest
from ocr.datasets.schemas import DatasetConfig
from ocr.datasets.shards.images import load_shards
from ocr.errors import InputError
from ocr.polygons import FloatArray
from ocr.preparation.prepare import prepare_data

TARGETS = sorted(LAYOUTS)
NOT_UTF8 = os.fsdecode(b"caf\xe9.jpg")
POLYGON = [[30.1, 40.7], [80, 38.123456], [120, 44], [118, 60.5], [75, 56], [32, 58]]


@pytest.fixture(scope="module")
def source(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drawn set with a six-sided word, a don't-care region, an image in a sub-folder and a Korean name."""
    root = Path(shutil.copytree(drawn, tmp_path_factory.mktemp("source") / "data"))
    document = json.loads((root / "jsons/train.json").read_text())
    names = list(document["images"])
    for old, new in zip(names, ["sub/영수증 1.jpg", names[1]], strict=False):
        (root / "images/train" / new).parent.mkdir(exist_ok=True)
        (root / "images/train" / old).rename(root / "images/train" / new)
        document["images"][new] = document["images"].pop(old)
        document["images"][new]["words"] = {
            "0001": {"points": POLYGON},
            "0002": {"points": [[10, 10], [20.5, 10], [20.5, 16.25], [10, 16]], "illegibility": True},
            "0003": {"points": [[40, 80], [50, 80], [50, 90], [40, 90]]},
        }
    (root / "jsons/train.json").write_text(json.dumps(document))
    return root


def prepared(source: Path, output: Path, *overrides: str) -> PrepareConfig:
    given = ["data=upstage", f"dataset_base_path={source}", f"output={output}", "maps=false", *overrides]
    config = compose_config(PrepareConfig, "prepare_data", given)
    prepare_data(config, output.parent / "run")
    return config


def read_back(output: Path, to: str, split: str) -> Manifest:
    """Reads a split with the layout of data=NAME."""
    config = compose_config(
        PrepareConfig, "prepare_data", [f"data={to}", f"dataset_base_path={output}", "output=unused"]
    )
    return load_manifest(config.datasets.split(split), max_megapixels=100)[0]


@pytest.mark.parametrize("canonical", ["true", "false"])
@pytest.mark.parametrize("to", TARGETS)
def test_there_and_back_every_polygon_is_the_same(source, tmp_path, to, canonical):
    prepared(source, tmp_path / "ours", f"canonical={canonical}")
    prepared(source, tmp_path / "theirs", f"to={to}", f"canonical={canonical}")
    for split in ("train", "val"):
        folder = "images_val_canonical" if split == "val" and canonical == "true" else f"images/{split}"
        annotations = tmp_path / f"ours/jsons/{split}.json"
        expected = load_manifest(
            DatasetConfig(image_path=str(tmp_path / "ours" / folder), annotation_path=str(annotations)),
            max_megapixels=100,
        )[0]
        found = read_back(tmp_path / "theirs", to, split)
        assert found.filenames == expected.filenames
        np.testing.assert_array_equal(found.stored_sizes, expected.stored_sizes)
        for index in range(len(expected)):
            words = sorted(words_of(expected, index), key=lambda word: word[0] if to == "doctr" else 0)  # by class
            for (is_ignored, polygon), (should_be, original) in zip(words_of(found, index), words, strict=True):
                assert is_ignored == should_be
                if to == "doctr" and len(original) != 4:
                    rectangle, expected_one = Polygon(polygon), Polygon(four_corners(original))
                    assert rectangle.symmetric_difference(expected_one).area < 1e-3 * expected_one.area
                else:
                    np.testing.assert_array_equal(polygon, original)


def words_of(manifest: Manifest, index: int) -> list[tuple[bool, FloatArray]]:
    """Returns (don't-care, polygon) of the words of an image."""
    ignore = manifest.polygons.ignore_of(index).tolist()
    return list(zip(ignore, manifest.polygons.polygons_of(index), strict=True))


def test_the_files_have_the_form_that_each_trainer_reads(source, tmp_path, caplog):
    for to in TARGETS:
        prepared(source, tmp_path / to, f"to={to}", "splits=[train]")
    first, _, rest = (tmp_path / "paddleocr/train_label.txt").read_text().partition("\n")
    assert rest.count("\n") == 9
    path, _, words = next(line for line in [first, *rest.splitlines()] if "영수증" in line).partition("\t")
    assert path == "train/sub/영수증 1.jpg"
    assert [(word["transcription"], word["difficult"]) for word in json.loads(words)] == [
        ("text", False),
        ("###", True),
        ("text", False),
    ]

    document = json.loads((tmp_path / "mmocr/textdet_train.json").read_text())
    assert document["metainfo"]["dataset_type"] == "TextDetDataset"
    (entry,) = (entry for entry in document["data_list"] if "영수증" in entry["img_path"])
    assert entry["img_path"] == "textdet_imgs/train/sub/영수증 1.jpg"
    assert [instance["ignore"] for instance in entry["instances"]] == [False, True, False]
    assert len(entry["instances"][0]["polygon"]) == 12

    image = "sub/영수증 1.jpg"
    entry = json.loads((tmp_path / "doctr/train/labels.json").read_text())[image]
    content = (tmp_path / "doctr/train/images" / image).read_bytes()
    assert entry["img_hash"] == hashlib.sha256(content).hexdigest()
    assert {name: len(polygons) for name, polygons in entry["polygons"].items()} == {"words": 2, "ignore": 1}
    assert all(len(polygon) == 4 for polygon in entry["polygons"]["words"])
    assert "polygons have not four corners" in caplog.text

    document = json.loads((tmp_path / "coco/annotations/instances_train2017.json").read_text())
    (image_id,) = (entry["id"] for entry in document["images"] if entry["file_name"] == image)
    own = [entry for entry in document["annotations"] if entry["image_id"] == image_id]
    assert [entry["iscrowd"] for entry in own] == [0, 1, 0]
    assert len({entry["id"] for entry in document["annotations"]}) == len(document["annotations"])
    *_, width, height = own[2]["bbox"]
    assert own[2]["area"] == pytest.approx(width * height) == pytest.approx(100, abs=1)
    assert len(own[0]["segmentation"][0]) == 12


def test_a_second_run_keeps_the_images_and_another_format_needs_another_folder(source, tmp_path):
    config = prepared(source, tmp_path / "out", "to=coco", "splits=[train]")
    report = prepare_data(config, tmp_path / "run")["train"]
    assert report.images is not None
    assert report.images.counts == {"kept": 10}
    with pytest.raises(InputError, match="was prepared with to=coco"):
        prepared(source, tmp_path / "out", "to=mmocr", "splits=[train]")
    with pytest.raises(InputError, match="is the data set itself"):
        prepared(source, source, "to=mmocr", "canonical=false")


def test_shards_are_of_our_format_only():
    with pytest.raises(SystemExit, match="to=coco writes files only"):
        compose_config(PrepareConfig, "prepare_data", ["to=coco", "shards=true", "output=unused"])


@pytest.fixture
def latin1(tmp_path: Path) -> Path:
    """An ICDAR folder whose only image has a name in Latin-1."""
    images, texts = tmp_path / "ch4_training_images", tmp_path / "ch4_training_localization_transcription_gt"
    images.mkdir()
    texts.mkdir()
    Image.new("RGB", (60, 40), "white").save(images / NOT_UTF8)
    (texts / f"gt_{Path(NOT_UTF8).stem}.txt").write_text("5,5,30,5,30,15,5,15,text")
    return tmp_path


@pytest.mark.parametrize("to", ["coco", "doctr", "mmocr", "upstage"])
def test_a_name_that_is_not_utf8_reads_back_as_the_same(latin1, tmp_path, to):
    shards = "true" if to == "upstage" else "false"
    prepared(latin1, tmp_path / "out", "data=icdar", "splits=[train]", f"to={to}", f"shards={shards}")
    assert list(read_back(tmp_path / "out", to, "train").filenames) == [NOT_UTF8]
    if to == "upstage":
        assert list(load_shards(str(tmp_path / "out/shards/train"))[0].filenames) == [NOT_UTF8]


def test_paddleocr_refuses_a_name_that_is_not_utf8_before_anything_is_written(latin1, tmp_path):
    expected = r"ch4_training_images: found the name caf\\udce9\.jpg; expected UTF-8.*to=upstage"
    with pytest.raises(InputError, match=expected):
        prepared(latin1, tmp_path / "out", "data=icdar", "splits=[train]", "to=paddleocr")
    assert not list((tmp_path / "out").rglob("*"))
