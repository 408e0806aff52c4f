"""One set of images in each XML form and in MAT-files: the polygons of the Upstage form, and no reader takes one for another."""

from collections.abc import Callable
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
import pytest

from ocr.command_line import compose_config
from ocr.config import PrepareConfig
from ocr.datasets.audit import load_manifest
from ocr.datasets.formats.image_folder import ImageFolder
from ocr.datasets.formats.interface import Confidence
from ocr.datasets.formats.look import look_at
from ocr.datasets.formats.read import FORMATS, read_annotations
from ocr.datasets.schemas import DatasetConfig
from ocr.preparation.prepare import prepare_data
from tests.ocr.datasets.formats.samples import HEIGHT, WIDTH, WORDS, flat, upstage, write_images

Polygon = list[list[float]]


def pairs(polygon: Polygon, separator: str = " ") -> str:
    return separator.join(f"{x},{y}" for x, y in polygon)


def write_cvat(folder: Path) -> Path:
    images = "".join(
        f"<image name={quoteattr(name)} width='{WIDTH}' height='{HEIGHT}'>"
        + "".join(f"<polygon label='text' occluded='{int(ignore)}' points='{pairs(p, ';')}'/>" for p, ignore in words)
        + "</image>"
        for name, words in WORDS.items()
    )
    path = folder / "annotations.xml"
    path.write_text(f"<annotations><version>1.1</version>{images}</annotations>", encoding="utf-8")
    return path


def write_pages(folder: Path, page: Callable[[str, list[tuple[Polygon, bool]]], str]) -> Path:
    (folder / "pages").mkdir()
    for name, words in WORDS.items():
        (folder / "pages" / Path(name).with_suffix(".xml")).write_text(page(name, words), encoding="utf-8")
    return folder / "pages"


def write_page_xml(folder: Path) -> Path:
    def page(name: str, words: list[tuple[Polygon, bool]]) -> str:
        lines = "".join(
            f"<TextLine id='l{n}'><Coords points='{pairs(p)}'/><TextEquiv><Unicode>{'###' if ignore else 'a'}</Unicode>"
            "</TextEquiv></TextLine>"
            for n, (p, ignore) in enumerate(words)
        )
        region = f"<TextRegion id='r'>{lines}</TextRegion>" if lines else ""
        return f"<PcGts><Page imageFilename={quoteattr(name)} imageWidth='{WIDTH}' imageHeight='{HEIGHT}'>{region}</Page></PcGts>"

    return write_pages(folder, page)


def write_alto(folder: Path) -> Path:
    def page(name: str, words: list[tuple[Polygon, bool]]) -> str:
        lines = "".join(
            f"<TextLine ID='l{n}'><Shape><Polygon POINTS='{pairs(p)}'/></Shape><String CONTENT='{'###' if ignore else 'a'}'/>"
            "</TextLine>"
            for n, (p, ignore) in enumerate(words)
        )
        return (
            "<alto><Description><MeasurementUnit>pixel</MeasurementUnit></Description>"
            f"<Layout><Page WIDTH='{WIDTH}' HEIGHT='{HEIGHT}'><PrintSpace>{lines}</PrintSpace></Page></Layout></alto>"
        )

    return write_pages(folder, page)


def write_ctw1500(folder: Path) -> Path:
    def page(name: str, words: list[tuple[Polygon, bool]]) -> str:
        boxes = "".join(
            f"<box><label>{'###' if ignore else 'a'}</label><segs>{','.join(map(str, flat(p)))}</segs></box>"
            for p, ignore in words
        )
        return f"<Annotations><image file={quoteattr(name)}>{boxes}</image></Annotations>"

    return write_pages(folder, page)


def write_totaltext(folder: Path) -> Path:
    sio = pytest.importorskip("scipy.io", reason="SciPy writes MAT-files")
    (folder / "gt").mkdir()
    for name, words in WORDS.items():
        rows = np.empty((len(words), 6), object)
        for row, (polygon, ignore) in enumerate(words):
            xs, ys = np.array(polygon).T
            rows[row] = ["x:", xs[None], "y:", ys[None], "#" if ignore else "a", "c"]
        sio.savemat(folder / "gt" / f"poly_gt_{Path(name).stem}.mat", {"polygt": rows})
    return folder / "gt"


WRITERS = {
    "cvat": write_cvat,
    "page_xml": write_page_xml,
    "alto": write_alto,
    "ctw1500_xml": write_ctw1500,
    "totaltext_mat": write_totaltext,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_form_gives_the_polygons_of_the_upstage_form(name: str, tmp_path: Path) -> None:
    images = ImageFolder(write_images(tmp_path), (".jpg",))
    found = {image.filename: image for image in read_annotations(WRITERS[name](tmp_path), images, name)}
    assert sorted(found) == sorted(WORDS)
    for filename, words in WORDS.items():
        assert found[filename].problems == ()
        for word, (points, ignore) in zip(found[filename].words, words, strict=True):
            np.testing.assert_array_equal(word.points, points)
            assert word.ignore == ignore


@pytest.mark.parametrize("name", WRITERS)
def test_every_form_is_certain_of_its_own_files_and_of_no_other(name: str, tmp_path: Path) -> None:
    look = look_at(WRITERS[name](tmp_path))
    confidences = {candidate.name: candidate.fit(look).confidence for candidate in FORMATS}
    assert confidences.pop(name) == Confidence.CERTAIN
    assert set(confidences.values()) == {Confidence.NONE}


@pytest.mark.parametrize("name", WRITERS)
def test_prepare_data_turns_every_form_into_ours(name: str, tmp_path: Path) -> None:
    images, annotations = write_images(tmp_path), WRITERS[name](tmp_path)
    split = "datasets.train_dataset.config"
    overrides = [f"{split}.image_path={images}", f"{split}.annotation_path={annotations}"]
    overrides += [f"{split}.annotation_format={name}", f"output={tmp_path}/ours"]
    prepare_data(compose_config(PrepareConfig, "prepare_data", [*overrides, "splits=[train]"]), tmp_path / "run")
    ours = tmp_path / "ours"
    config = DatasetConfig(image_path=f"{ours}/images/train", annotation_path=f"{ours}/jsons/train.json")
    manifest, report = load_manifest(config, max_megapixels=1)
    assert (report.num_words, report.num_ignored, report.findings) == (4, 1, ())
    expected = upstage()["images"]
    for index, filename in enumerate(manifest.filenames):
        words = list(expected[filename]["words"].values())
        assert manifest.polygons.ignore_of(index).tolist() == [word["illegibility"] for word in words]
        for polygon, word in zip(manifest.polygons.polygons_of(index), words, strict=True):
            np.testing.assert_array_equal(polygon, np.array(word["points"], np.float32))
