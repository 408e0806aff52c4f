"""Both loaders, prepare_data, predict and TextDetector read the same pixels from files of every mode, or the audit refuses them."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dali_pipelines.config import PipelineConfig
from ocr.config import PredictConfig, PrepareConfig
from ocr.datasets.audit import load_manifest
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.given_image import read_image
from ocr.datasets.plan import EpochPlan, SamplePlanner
from ocr.datasets.schemas import DatasetConfig
from ocr.errors import InputError
from ocr.inference import predict
from ocr.loaders.engines import Engine, image_loader
from ocr.preparation.prepare import prepare_data
from tests.ocr.image_modes import CASES, GRAY, REFUSED, RGB, WIDTH, Case, png, saved

ALL = pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
EXTENSIONS = (".jpg", ".png", ".tif", ".bmp", ".webp", ".gif")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("modes")
    for case in CASES.values():
        (folder / case.name).write_bytes(case.content)
    return folder


def dataset_of(folder: Path, tmp_path: Path) -> ValidatedOCRDataset:
    """Returns the whole images of a folder, neither resized nor cropped."""
    config = DatasetConfig(
        image_path=str(folder), image_extensions=EXTENSIONS, converted_path=str(tmp_path / "converted")
    )
    planner = SamplePlanner(PipelineConfig(image_size=WIDTH), training=False, seed=0)
    return ValidatedOCRDataset(config, planner)


def levels_of(dataset: ValidatedOCRDataset, name: str) -> dict[str, np.ndarray]:
    """Returns what a loader makes of each image, (H, W, 3), without the padding."""
    failures: dict[str, str] = {}
    loader = image_loader(dataset, Engine(name, torch.device("cpu")), batch_size=8, levels=True, failures=failures)
    plan = EpochPlan(dataset.manifest, dataset.planner, epoch=0, batch_size=8)
    found = {}
    for batch in loader.batches(plan):
        for image, sample in zip(batch.images, batch.samples, strict=True):
            height, width = dataset.manifest.original_sizes[sample.index]
            filename = dataset.manifest.filenames[sample.index]
            found[filename] = image[:, :height, :width].permute(1, 2, 0).numpy().astype(int)
    loader.release()
    assert not failures
    return found


def assert_as_expected(found: np.ndarray, case: Case) -> None:
    assert found.shape == case.upright.shape
    assert np.abs(found.astype(int) - case.upright).max() <= case.tolerance


def test_both_loaders_read_the_same_levels_from_every_mode(folder: Path, tmp_path: Path) -> None:
    dataset = dataset_of(folder, tmp_path)
    by_dali, by_torch = levels_of(dataset, "dali"), levels_of(dataset, "torch")
    assert set(by_dali) == set(by_torch) == set(CASES)
    for name, case in CASES.items():
        assert_as_expected(by_dali[name], case)
        np.testing.assert_array_equal(by_torch[name], by_dali[name], err_msg=name)


@ALL
def test_a_file_its_content_and_its_pillow_image_give_the_same_levels(case: Case, folder: Path) -> None:
    by_path = read_image(folder / case.name, max_megapixels=1)
    assert_as_expected(by_path.original, case)
    by_content = read_image(case.content, max_megapixels=1)
    np.testing.assert_array_equal(by_content.original, by_path.original)
    by_pillow = read_image(Image.open(io.BytesIO(case.content)), max_megapixels=1)
    assert by_pillow.original.shape == case.upright.shape
    is_cut = case.name.startswith(("rgb_16", "rgb_alpha_16", "gray_alpha_16"))  # Pillow itself drops the lower bits
    assert np.abs(by_pillow.original - case.upright).max() <= case.tolerance + is_cut


@pytest.mark.parametrize("canonical", [True, False])
def test_prepared_images_have_the_levels_of_their_sources(canonical: bool, folder: Path, tmp_path: Path) -> None:
    words = {"0001": {"points": [[2, 2], [20, 2], [20, 20]]}}
    entries = {name: {"words": words} for name in CASES}
    (tmp_path / "val.json").write_text(json.dumps({"images": entries}))
    split = {"image_path": str(folder), "annotation_path": str(tmp_path / "val.json")}
    config = PrepareConfig.model_validate(
        {
            "output": str(tmp_path / "out"),
            "datasets": {"val_dataset": {"config": split | {"converted_path": str(tmp_path / "converted")}}},
            "splits": ["val"],
            "maps": False,
            "canonical": canonical,
        }
    )
    report = prepare_data(config, tmp_path / "run")["val"]
    assert report.num_usable == len(CASES)
    images = tmp_path / "out" / ("images_val_canonical" if canonical else "images/val")
    for name in json.loads((tmp_path / "out/jsons/val.json").read_text())["images"]:
        case = CASES.get(name) or CASES[name.removesuffix(".png")]
        with Image.open(images / name) as image:
            assert image.mode in ("1", "L", "P", "RGB")
            assert image.format == ("JPEG" if name.endswith(".jpg") else "PNG")
        assert_as_expected(read_image(images / name, max_megapixels=1).original, case)
    again = prepare_data(config, tmp_path / "run")["val"]
    assert again.images is not None
    assert again.images.counts == {"kept": len(CASES)}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_alike_is_refused_by_name(name: str, tmp_path: Path) -> None:
    content, found = REFUSED[name]
    (tmp_path / name).write_bytes(content)
    (tmp_path / "good.jpg").write_bytes(CASES["rgb.jpg"].content)
    entries = {listed: {"words": {}} for listed in (name, "good.jpg")}
    (tmp_path / "all.json").write_text(json.dumps({"images": entries}))
    config = DatasetConfig(image_path=str(tmp_path), annotation_path=str(tmp_path / "all.json"))
    manifest, report = load_manifest(config, max_megapixels=1)
    assert manifest.filenames == ("good.jpg",)
    (finding,) = report.findings
    assert (finding.image, finding.severity) == (name, "image")
    assert found in finding.found
    if not name.endswith(".jp2"):
        with pytest.raises(InputError, match="image: found "):
            read_image(content, max_megapixels=1)


def test_predictions_equal_those_of_the_8_bit_opaque_copies(tmp_path: Path, untrained_checkpoint: Path) -> None:
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "plain.png").write_bytes(png(8, 0, GRAY))
    (pages / "deep.png").write_bytes(png(16, 0, GRAY.astype(int) * 257))
    (pages / "clear.png").write_bytes(png(8, 4, np.dstack([np.where(GRAY < 255, GRAY, 0), 255 + 0 * GRAY])))
    Image.fromarray(GRAY).save(pages / "scan.tif")
    words = {}
    for loader, images in (("dali", str(pages)), ("torch", [str(path) for path in pages.iterdir()])):
        config = PredictConfig.model_validate(
            {
                "checkpoint": str(untrained_checkpoint),
                "images": images,
                "output": str(tmp_path / loader),
                "loader": loader,
                "draw": False,
            }
        )
        found = json.loads((predict(config, tmp_path / "run") / "predictions.json").read_text())["images"]
        assert set(found) == {"plain.png", "deep.png", "clear.png", "scan.tif"}
        words |= {(loader, name): image["words"] for name, image in found.items()}
    assert len({json.dumps(one) for one in words.values()}) == 1


def test_the_audit_says_what_it_found_of_bits_profiles_and_gamma(tmp_path: Path) -> None:
    (tmp_path / "deep.png").write_bytes(CASES["gray_12_in_16.png"].content)
    (tmp_path / "gamma.png").write_bytes(CASES["rgb_gamma_1.png"].content)
    (tmp_path / "profile.jpg").write_bytes(saved(Image.fromarray(RGB), "JPEG", icc_profile=b"x" * 200))
    _, report = load_manifest(DatasetConfig(image_path=str(tmp_path)), max_megapixels=1)
    assert report.statistics["bits"] == {"8": 2, "16": 1}
    assert report.statistics["profile"] == {"-": 2, "ICC": 1}
    assert report.statistics["gamma"] == {"-": 2, "1.0000": 1}
    assert {finding.kind: finding.found for finding in report.findings} == {
        "low_range": "16-bit samples below 4096, read as 12-bit samples",
        "gamma": "gamma 1.0000",
    }


@pytest.mark.parametrize("mode", ["PA", "La", "RGBa", "LA", "RGBA", "HSV", "YCbCr", "RGBX", "1", "P"])
def test_a_pillow_image_of_a_mode_that_no_file_has_is_read_too(mode: str) -> None:
    """Transparent on the left; the hidden colours of premultiplied modes are lost, all others are kept within rounding."""
    clear = Image.fromarray(
        np.dstack([RGB, np.where(np.arange(WIDTH) < 16, 0, 255) * np.ones_like(GRAY)]).astype(np.uint8)
    )
    source = clear if mode in ("PA", "La", "RGBa", "LA", "RGBA") else Image.fromarray(RGB)
    if mode == "La":
        source = source.convert("LA")
    image = source.quantize(255).convert("PA") if mode == "PA" else source.convert(mode)
    found = read_image(image, max_megapixels=1).original.astype(int)
    assert found.shape == RGB.shape
    if source is not clear and mode != "La":
        expected = np.asarray(image.convert("RGB")).astype(int)
        np.testing.assert_array_equal(found, expected)
        return
    assert (found[:, :16] == 255).all()
    opaque = np.asarray(Image.fromarray(RGB).convert("L" if mode.upper() == "LA" else "RGB").convert("RGB")).astype(int)
    assert np.abs(found - opaque)[:, 16:].mean() < (12 if mode == "PA" else 0.1)  # PA has a palette


@pytest.mark.parametrize(
    ("mode", "found"), [("F", "floating-point samples"), ("I", "32-bit or signed integer samples")]
)
def test_a_pillow_image_whose_range_nobody_knows_is_refused(mode: str, found: str) -> None:
    with pytest.raises(InputError, match=f"image: found {found}; expected 8 or 16 unsigned bits"):
        read_image(Image.fromarray(GRAY).convert(mode), max_megapixels=1)
