"""Pictures saved again, smaller or slightly cut are near duplicates, as are forms of one layout; other pictures are not."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ocr.datasets.audit import load_manifest
from ocr.datasets.manifest import Manifest
from ocr.datasets.schemas import DatasetConfig
from ocr.inspection.near_duplicates import image_hash, near_duplicates


def manifest_of(folder: Path) -> Manifest:
    return load_manifest(DatasetConfig(image_path=str(folder), audit_memo="off"), max_megapixels=100)[0]


def test_a_smaller_copy_of_lower_quality_is_found(drawn, tmp_path):
    train = manifest_of(drawn / "images/train")
    with Image.open(train.image_paths[3]) as image:
        copy = image.resize((image.width * 3 // 4, image.height * 3 // 4))
        copy.save(tmp_path / "copy.jpg", quality=60)
    (pair,) = near_duplicates(train, manifest_of(tmp_path), 100)
    assert (pair.train, pair.val) == (3, 0)


def test_forms_of_one_layout_are_found_like_copies(tmp_path):
    """The tiny copy shows the layout and not the entries, so the report names both possibilities."""
    for split, entry in (("train", "Kim, 12 May"), ("val", "Ott, 30 June")):
        form = Image.new("L", (600, 800), 255)
        draw = ImageDraw.Draw(form)
        for row in range(8):
            draw.rectangle((30, 40 + 90 * row, 240, 80 + 90 * row), 60)
            draw.text((270, 45 + 90 * row), entry, 0, font_size=24)
            draw.line((260, 80 + 90 * row, 570, 80 + 90 * row), 0, 3)
        (tmp_path / split).mkdir()
        form.save(tmp_path / split / "form.jpg")
    (pair,) = near_duplicates(manifest_of(tmp_path / "train"), manifest_of(tmp_path / "val"), 10)
    assert pair.distance > 0


def test_other_pictures_of_one_kind_are_no_duplicates(drawn):
    assert near_duplicates(manifest_of(drawn / "images/train"), manifest_of(drawn / "images/val"), 100) == []


def test_real_receipts_of_two_splits_are_no_duplicates(sroie):
    train, val = manifest_of(sroie / "images/train"), manifest_of(sroie / "images/val")
    assert len(near_duplicates(train, val, 40)) <= 1


def test_the_distance_is_the_share_of_the_bits_of_either_hash_that_differ(drawn):
    train, val = manifest_of(drawn / "images/train"), manifest_of(drawn / "images/val")
    ours, theirs = ([np.unpackbits(image_hash(m.images.read(i))) for i in range(len(m))] for m in (train, val))
    distances = np.array([[(a ^ b).sum() / (a | b).sum() for a in ours] for b in theirs])
    nearest = distances.argmin(axis=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ocr.inspection.near_duplicates.MAX_DISTANCE", 1)
        patch.setattr(np, "unpackbits", None)  # takes seconds for all pairs of two thousand images
        pairs = sorted(near_duplicates(train, val, 100), key=lambda pair: pair.val)
    assert [pair.train for pair in pairs] == nearest.tolist()
    assert [pair.distance for pair in pairs] == distances.min(axis=1).tolist()


def test_plain_and_unreadable_images_have_no_hash(drawn):
    stream = io.BytesIO()
    Image.fromarray(np.full((64, 64), 250, np.uint8)).save(stream, "PNG")
    assert image_hash(stream.getvalue()) is None
    assert image_hash(b"no image") is None
    train = manifest_of(drawn / "images/train")
    gone = replace(train, image_paths=tuple(f"{path}.gone" for path in train.image_paths))
    assert near_duplicates(gone, train, 100) == []
