"""The whole inspection of the drawn set: one HTML file that needs nothing else, and its sheets."""

import base64
import io
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ocr.command_line import compose_config
from ocr.config import InspectConfig
from ocr.errors import InputError
from ocr.inspection.inspect_data import inspect_data
from tests.splits import splits


class Page(HTMLParser):
    """Collects what a page refers to and says."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.text = ""
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for key, value in attrs if key in ("src", "href", "srcset", "data", "action")]

    def handle_data(self, data: str) -> None:
        self.text += data


def config_of(root: Path, **values) -> InspectConfig:
    sizes = {"pipeline": {"image_size": 320}, "num_images": 3, "num_samples": 2}
    return InspectConfig.model_validate(sizes | {"datasets": splits(root, audit_memo="off")} | values)


@pytest.fixture(scope="module")
def report(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return inspect_data(
        config_of(drawn, png=True, targets={"max_text_weight": 2}), tmp_path_factory.mktemp("inspection")
    )


def test_the_page_refers_to_nothing_outside_itself_and_runs_no_script(report):
    document = report.read_text()
    page = Page(document)
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert all(reference.startswith(("data:image/jpeg;base64,", "#")) for reference in page.references)
    assert "url(" not in document
    assert "@import" not in document
    assert "prefers-color-scheme: dark" in document


def test_the_page_has_audit_charts_images_and_samples_of_both_splits(report):
    page = Page(report.read_text())
    assert "10 of 10 images usable" in page.text
    assert "8 of 8 images usable" in page.text
    assert page.text.count("Height of words at image_size=320") == 2
    assert "Letters of the transcriptions" in page.text
    assert "hardest and strangest first (3 of 10)" in page.text
    pictures = [reference for reference in page.references if reference.startswith("data:")]
    assert len(pictures) == 2 * (3 + 2)
    for picture in pictures:
        with Image.open(io.BytesIO(base64.b64decode(picture.partition(",")[2]))) as image:
            image.load()


def test_a_sample_shows_the_input_and_four_maps_in_their_colours(report):
    with Image.open(report.with_name("report_train_samples.png")) as sheet:
        pixels = sheet.convert("RGB")
    assert pixels.width >= 5 * 360
    shrink_map, shrink_mask = (
        np.asarray(pixels.crop((8 + place * 368, 44, 360 + place * 368, 44 + 360))).reshape(-1, 3).astype(int)
        for place in (1, 2)
    )
    red, green, blue = shrink_map.T
    assert ((green > red + 60) & (green > blue + 60)).any()
    red, green, blue = shrink_mask.T
    assert ((blue > red + 30) & (red > green + 15)).any()  # the weights of small text, in violet


def test_sheets_lie_beside_the_page(report):
    names = {path.name for path in report.parent.glob("*.png")}
    kinds = ("histograms", "images", "samples")
    assert names == {f"report_{split}_{kind}.png" for split in ("train", "val") for kind in kinds}


def test_a_browser_shows_the_page(report, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("there is no Chromium on this machine")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000", "--dump-dom"]
    done = subprocess.run([*command, report.as_uri()], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    shot = ["--screenshot=shot.png", "--window-size=1200,900", "--blink-settings=preferredColorScheme=0"]
    subprocess.run([*command[:-1], *shot, report.as_uri()], capture_output=True, timeout=120, cwd=tmp_path, check=True)
    assert len(re.findall("<figure", done.stdout)) >= 2 * (3 + 2 + 6)
    with Image.open(tmp_path / "shot.png") as image:
        assert image.convert("L").getextrema()[1] > 200  # text is light where the page is dark
        assert image.convert("L").getpixel((2, 2)) < 60


def test_images_without_annotations_are_shown_without_words(odd_jpegs, tmp_path):
    config = config_of(odd_jpegs, images=str(odd_jpegs), num_images=4, output=str(tmp_path / "odd.html"))
    page = Page(inspect_data(config, tmp_path).read_text())
    assert "Longest side of the images" in page.text
    assert "Words of an image" not in page.text
    assert "truncated_half.jpg: found" in page.text
    assert "11 of 50 images are left out" in page.text
    assert "target maps" not in page.text
    assert "chroma sampling" in page.text
    assert "none (" in page.text


def test_images_of_all_formats_in_a_folder_are_shown(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for number, extension in enumerate(("jpg", "bmp", "tif", "webp")):
        Image.new("RGB", (64 + number, 48), (200, 90, 10)).save(images / f"of_{extension}.{extension}")
    config = config_of(tmp_path, images=str(images), num_samples=1, num_images=4)
    page = Page(inspect_data(config, tmp_path).read_text())
    assert all(f"of_{extension}.{extension}" in page.text for extension in ("jpg", "bmp", "tif", "webp"))


def test_no_size_is_chosen_for_images_without_annotations(odd_jpegs, tmp_path):
    config = config_of(odd_jpegs, images=str(odd_jpegs), pipeline={"image_size": "auto"})
    with pytest.raises(InputError, match=r"image_size=auto: auto goes by .* annotated training words.*give a number"):
        inspect_data(config, tmp_path)


def test_a_bad_word_is_listed_and_does_not_end_the_inspection(drawn, tmp_path):
    root = shutil.copytree(drawn, tmp_path / "copy")
    annotations = root / "jsons" / "train.json"
    annotations.write_text(
        re.sub(r'"points": \[\[[^\]]*\]', '"points": [[-900, -900]', annotations.read_text(), count=1)
    )
    page = Page(inspect_data(config_of(root, splits=["train"]), tmp_path).read_text())
    assert "Findings" in page.text


def test_a_test_split_that_is_the_validation_split_is_shown_once(drawn, tmp_path):
    config = config_of(drawn, splits=["val"])
    both = config.datasets.model_copy(update={"test_dataset": config.datasets.val_dataset})
    document = inspect_data(config.model_copy(update={"splits": None, "datasets": both}), tmp_path).read_text()
    assert re.findall('<h2 id="([a-z]+)"', document) == ["train", "val"]


def error_of(run_dir: Path, *overrides: str) -> str:
    with pytest.raises(InputError) as error:
        inspect_data(compose_config(InspectConfig, "inspect_data", overrides), run_dir)
    return str(error.value)


def test_a_set_without_any_split_is_answered_with_the_folders_looked_for_and_what_is_there(
    drawn, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for base, overrides in (("data", []), ("nods", ["dataset_base_path=nods"])):
        assert error_of(tmp_path, *overrides) == (
            f"train: {base}/images/train: no such folder; val: {base}/images/val: no such folder; "
            f"test: {base}/images/test: no such folder; the folder {base} does not exist; check dataset_base_path; "
            "images=FOLDER shows images without annotations"
        )
    said = error_of(tmp_path, "data=icdar", f"dataset_base_path={drawn}")
    assert f"train: {drawn}/ch4_training_images: no such folder; " in said
    assert f"; {drawn} looks like Upstage JSON: data=upstage; images=FOLDER" in said
    with pytest.raises(InputError, match=r"^no image_path is set; give data=NAME dataset_base_path=FOLDER; images="):
        inspect_data(InspectConfig(), tmp_path)


def test_a_wrong_folder_of_images_and_a_wrong_output_are_named(drawn, tmp_path):
    with pytest.raises(InputError, match="there is no such folder"):
        inspect_data(config_of(drawn, images=str(tmp_path / "none")), tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.html").mkdir()
    for output, message in (
        ("report.pdf", r"ends in \.html"),
        ("folder.html", "found a folder, expected the name of a file"),
        ("file/report.html", "found a file, .*/file, expected a folder"),
    ):
        with pytest.raises(InputError, match=message):
            inspect_data(config_of(drawn, output=str(tmp_path / output)), tmp_path / "run")
    assert not (tmp_path / "run").exists()
