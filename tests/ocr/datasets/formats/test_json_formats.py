from pathlib import Path

import numpy as np
import pytest

from ocr.datasets.audit import load_manifest
from ocr.datasets.formats.image_folder import ImageFolder
from ocr.datasets.formats.interface import Confidence
from ocr.datasets.formats.look import look_at
from ocr.datasets.formats.read import FORMATS, choose_format, read_annotations
from ocr.datasets.layout import find_splits
from ocr.datasets.schemas import DatasetConfig
from ocr.errors import InputError
from tests.ocr.datasets.formats.samples import WORDS, WRITERS, write_images


@pytest.mark.parametrize("form", WRITERS)
def test_every_format_gives_the_polygons_of_the_upstage_form(form: str, tmp_path: Path) -> None:
    images = ImageFolder(write_images(tmp_path), (".jpg",))
    name, write = WRITERS[form]
    found = {image.filename: image for image in read_annotations(write(tmp_path), images, name)}
    assert list(found) == list(WORDS) if form != "labelme" else sorted(found) == sorted(WORDS)
    for filename, words in WORDS.items():
        image = found[filename]
        assert image.problems == ()
        # docTR and JSON-MIN keep words by class or shape, not in one order.
        read = sorted((word.points.tolist(), word.ignore) for word in image.words)
        assert len(read) == len(words)
        for (points, ignore), (expected, expected_ignore) in zip(read, sorted(words), strict=True):
            np.testing.assert_allclose(points, expected, rtol=0, atol=1e-12)
            assert ignore == expected_ignore


@pytest.mark.parametrize("form", WRITERS)
def test_every_format_passes_the_audit_and_is_found_by_looking(form: str, tmp_path: Path) -> None:
    images = write_images(tmp_path)
    path = WRITERS[form][1](tmp_path)
    manifest, report = load_manifest(DatasetConfig(image_path=str(images), annotation_path=str(path)), max_megapixels=1)
    assert report.findings == ()
    assert sorted(manifest.filenames) == sorted(WORDS)
    assert (report.num_words, report.num_ignored) == (4, 1)


@pytest.mark.parametrize("form", WRITERS)
def test_every_format_is_certain_of_its_own_files_and_of_no_other(form: str, tmp_path: Path) -> None:
    name, write = WRITERS[form]
    look = look_at(write(tmp_path))
    confidences = {candidate.name: candidate.fit(look).confidence for candidate in FORMATS}
    assert confidences.pop(name) == Confidence.CERTAIN
    assert set(confidences.values()) == {Confidence.NONE}


@pytest.mark.parametrize("form", WRITERS)
def test_every_other_reader_names_the_one_that_reads_the_file(form: str, tmp_path: Path) -> None:
    name, write = WRITERS[form]
    path, images = write(tmp_path), ImageFolder(tmp_path, (".jpg",))
    for other in FORMATS:
        if other.name != name:
            with pytest.raises(
                InputError, match=rf"not .*: this looks like .*, which data={name} or annotation_format="
            ):
                read_annotations(path, images, other.name)


def test_a_set_is_refused_where_a_file_holds_one(tmp_path: Path) -> None:
    path, images = WRITERS["coco"][1](tmp_path), ImageFolder(tmp_path, (".jpg",), annotation_set="val")
    with pytest.raises(InputError, match="annotation_set=val: a file of COCO segmentation holds one set; remove"):
        read_annotations(path, images)


@pytest.mark.parametrize("form", WRITERS)
def test_frame_of_tools_that_show_images_upright_is_found_too(form: str, tmp_path: Path) -> None:
    frame = "upright" if form.startswith("label") else "stored"
    images = ImageFolder(write_images(tmp_path), (".jpg",))
    path = WRITERS[form][1](tmp_path)
    assert find_splits(str(tmp_path), (".jpg",))["train"].annotation_frame == frame
    warnings = choose_format(path, images).warnings
    assert any("shows images upright; if some have an EXIF rotation" in line for line in warnings) == (
        frame == "upright"
    )
