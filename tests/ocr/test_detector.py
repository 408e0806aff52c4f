import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ocr import TextDetector
from ocr.config import InferenceConfig, PredictConfig
from ocr.datasets.plan import EpochPlan
from ocr.datasets.schemas import DatasetConfig
from ocr.errors import InputError
from ocr.inference import predict
from ocr.loaders.batch import Batch
from ocr.loaders.torch_workers import TorchLoader
from ocr.predictions import stored_detections
from ocr.restore import restore_for_inference
from ocr.splits import build_dataset
from ocr.training.evaluator import Evaluator

SETTINGS = {"device": "cpu", "precision": "32-true", "batch_size": 3}
THRESHOLDS = {"bin_thresh": 0.5, "box_thresh": 0.3}
"""The untrained network's maps have many regions at these."""
ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def detector(untrained_checkpoint):
    return TextDetector(untrained_checkpoint, **SETTINGS, **THRESHOLDS)


@pytest.fixture(scope="module")
def folder(drawn, tmp_path_factory):
    """One receipt with each EXIF orientation, and one as a PNG. Their sides differ."""
    folder = tmp_path_factory.mktemp("turned")
    source = max((drawn / "images/val").glob("*.jpg"), key=lambda path: path.stat().st_size)
    image = Image.open(source)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        image.crop((0, 0, 300, 200 + 5 * orientation)).save(folder / f"turned_{orientation}.jpg", exif=exif)
    image.convert("RGB").save(folder / "whole.png", exif=b"")
    return folder


def files_of(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_results_equal_those_of_predict(detector, untrained_checkpoint, folder, tmp_path):
    config = PredictConfig(
        checkpoint=str(untrained_checkpoint),
        images=str(folder),
        output=str(tmp_path / "found"),
        loader="torch",
        draw=False,
        postprocess=THRESHOLDS,
        **SETTINGS,
    )
    expected = json.loads((predict(config, tmp_path) / "predictions.json").read_text())["images"]
    found = {
        path.name: result.to_dict() for path, result in zip(files_of(folder), detector(files_of(folder)), strict=True)
    }
    assert len(expected) == 9
    assert all(entry["words"] for entry in expected.values())
    assert found == expected


def test_polygons_and_scores_equal_those_of_the_evaluation_bit_for_bit(detector, untrained_checkpoint, drawn):
    config = InferenceConfig(checkpoint=str(untrained_checkpoint), loader="torch", postprocess=THRESHOLDS, **SETTINGS)
    settings, model = restore_for_inference(config)
    dataset = build_dataset(DatasetConfig(image_path=str(drawn / "images/val")), settings, training=False)
    manifest = dataset.manifest
    evaluator = Evaluator(model.to(memory_format=torch.channels_last), settings, manifest, with_cleval=False)
    loader = TorchLoader(dataset, num_workers=0, device=torch.device("cpu"), skip_failures=False)
    evaluator.start(torch.device("cpu"), with_truth=False)
    with torch.inference_mode():
        for batch in loader.batches(EpochPlan(manifest, dataset.planner, epoch=0, batch_size=3)):
            evaluator.evaluate(Batch(batch.images, batch.samples, None, dataset))
    evaluator.finish()
    evaluator.close()

    results = detector(list(manifest.image_paths))
    assert (manifest.orientations > 1).any()
    for index, result in enumerate(results):
        height, width = (int(side) for side in manifest.stored_sizes[index])
        found = evaluator.result.detections_original[index]
        expected = stored_detections(found, int(manifest.orientations[index]), (height, width))
        np.testing.assert_array_equal(result.scores, expected.scores)
        for polygon, expected_polygon in zip(result.polygons, expected.polygons, strict=True):
            assert polygon.dtype == np.float32
            np.testing.assert_array_equal(polygon, expected_polygon)
    assert sum(len(result.polygons) for result in results) > 20


def assert_same(first, second) -> None:
    assert first.size == second.size
    assert len(first.polygons) == len(second.polygons) > 0
    for polygon, other in zip(first.polygons, second.polygons, strict=True):
        np.testing.assert_array_equal(polygon, other)
    np.testing.assert_array_equal(first.scores, second.scores)


@pytest.mark.parametrize("name", ["turned_1.jpg", "turned_5.jpg", "turned_6.jpg", "whole.png"])
def test_path_bytes_and_pillow_image_give_the_same(detector, folder, name):
    path = folder / name
    by_path = detector(path)
    assert_same(by_path, detector(str(path)))
    assert_same(by_path, detector(path.read_bytes()))
    assert_same(by_path, detector(Image.open(path)))  # Pillow decodes a JPEG with libjpeg-turbo too
    assert by_path.size == Image.open(path).size[::-1]


def test_array_gives_the_same_as_its_png(detector, folder):
    pixels = np.asarray(Image.open(folder / "whole.png"))
    assert_same(detector(folder / "whole.png"), detector(pixels))
    assert_same(detector(pixels), detector(pixels.transpose(1, 0, 2).copy().transpose(1, 0, 2)))  # not contiguous


def test_list_gives_list_and_tuple_too(detector, folder):
    path = folder / "turned_1.jpg"
    assert detector([]) == []
    (found,) = detector([path])
    assert_same(found, detector(path))
    assert [result.size for result in detector((path, folder / "turned_2.jpg"))] == [(205, 300), (210, 300)]


def test_polygons_lie_in_the_image_as_stored(detector, folder):
    for result in detector(files_of(folder)):
        height, width = result.size
        points = np.concatenate(result.polygons)
        assert (points >= 0).all()
        assert (points <= (width, height)).all()


def test_drawn_picture_is_the_upright_image_with_green_polygons(detector, folder):
    picture = detector(folder / "turned_6.jpg").draw()
    assert picture.size == (230, 300)
    is_green = (np.asarray(picture) == (0, 160, 60)).all(axis=2)
    assert is_green.any()


def test_polygons_are_drawn_on_the_given_image_if_it_has_the_size_of_theirs(detector, folder):
    found = detector(folder / "turned_6.jpg")
    given = found.draw((folder / "turned_6.jpg").read_bytes())
    np.testing.assert_array_equal(np.asarray(given), np.asarray(found.draw()))
    with pytest.raises(InputError, match=r"draw: the image is \d+ x \d+ pixels, but the text was found in one of"):
        found.draw(folder / "whole.png")


def test_threads_share_a_detector(detector, folder):
    files = files_of(folder)[::2]
    expected = [detector(path) for path in files]
    with ThreadPoolExecutor(4) as pool:
        for results in pool.map(lambda _: [detector(path) for path in files], range(4)):
            for result, other in zip(results, expected, strict=True):
                assert_same(result, other)


@pytest.fixture(scope="module")
def few(folder):
    """Pages that cost 20 passes each when seen closer: as stored, turned, mirrored and turned, and a PNG."""
    return [folder / name for name in ("turned_1.jpg", "turned_6.jpg", "turned_7.jpg", "whole.png")]


@pytest.fixture(scope="module")
def closer(untrained_checkpoint):
    """Tiles of 200 pixels are scaled to the input's 320. The pages of `folder` have longest sides of 300 pixels and more."""
    return TextDetector(untrained_checkpoint, **SETTINGS, **THRESHOLDS, tile=200, rotations=(0, 90))


@pytest.fixture(scope="module")
def seen_closer(closer, few):
    """Results for few pages by their names."""
    return dict(zip([path.name for path in few], closer(few), strict=True))


def test_a_detector_without_tiles_and_turns_is_the_detector_as_it_was(detector, untrained_checkpoint, few):
    off = TextDetector(untrained_checkpoint, **SETTINGS, **THRESHOLDS, tile=None, rotations=None)
    zero = TextDetector(untrained_checkpoint, **SETTINGS, **THRESHOLDS, tile=2000, rotations=0)
    for path in few:
        found, expected = off(path), detector(path)
        assert_same(found, expected)
        assert_same(zero(path), expected)
        assert found.rotation == 0


@pytest.mark.parametrize("loader", ["torch", "dali"])
def test_tiles_and_turns_equal_those_of_predict(seen_closer, detector, untrained_checkpoint, few, tmp_path, loader):
    config = PredictConfig(
        checkpoint=str(untrained_checkpoint),
        images=tuple(map(str, few)),
        output=str(tmp_path / "found"),
        loader=loader,
        draw=False,
        postprocess=THRESHOLDS,
        tile=200,
        rotations=[0, 90],
        **SETTINGS,
    )
    expected = json.loads((predict(config, tmp_path) / "predictions.json").read_text())["images"]
    found = seen_closer
    if loader == "torch":
        assert {name: result.to_dict() for name, result in found.items()} == expected
    else:  # only the pass over the whole page sees DALI's pixels; they differ by a level
        numbers = {name: len(entry["words"]) for name, entry in expected.items()}
        assert numbers == pytest.approx({name: len(result.polygons) for name, result in found.items()}, abs=2)
    assert len({result.rotation for result in found.values()}) == 2
    for path, result in zip(few, found.values(), strict=True):
        height, width = result.size
        points = np.concatenate(result.polygons)
        assert ((points >= 0) & (points <= (width, height))).all()
        assert len(result.polygons) != len(detector(path).polygons)


def test_threads_share_a_detector_that_looks_closer(closer, few):
    files = few[:2]
    expected = [closer(path) for path in files]
    with ThreadPoolExecutor(3) as pool:
        for results in pool.map(lambda _: [closer(path) for path in files], range(3)):
            for result, other in zip(results, expected, strict=True):
                assert_same(result, other)


def test_a_warning_names_the_image_with_more_regions_than_max_candidates(untrained_checkpoint, folder, caplog):
    detector = TextDetector(untrained_checkpoint, **SETTINGS, **THRESHOLDS)
    detector.postprocess = detector.postprocess.model_copy(update={"max_candidates": 1})
    path = files_of(folder)[0]
    found = detector(path)
    assert found.num_cut > 0
    assert caplog.messages == [
        f"{path} ({1 + found.num_cut:,} regions): more regions score above postprocess.box_thresh than "
        "postprocess.max_candidates=1, so those with the lowest scores are left out; raise postprocess.max_candidates if they are "
        "text"
    ]


def test_arguments_replace_the_settings_of_the_checkpoint(untrained_checkpoint):
    trained = TextDetector(untrained_checkpoint)
    assert (trained.pipeline.image_size, trained.postprocess.bin_thresh, trained.postprocess.output) == (
        320,
        0.3,
        "quad",
    )
    given = {"bin_thresh": 0.4, "box_thresh": 0.2, "unclip_ratio": 1.5, "unclip_offset": 1.1, "output": "polygon"}
    changed = TextDetector(str(untrained_checkpoint), image_size=160, **given)
    assert {name: getattr(changed.postprocess, name) for name in given} == given
    assert changed.pipeline.image_size == 160


def test_bfloat16_differs_from_float32(untrained_checkpoint, detector, folder):
    rough = TextDetector(untrained_checkpoint, device="cpu", precision="bf16-mixed", **THRESHOLDS)
    found, exact = rough(folder / "whole.png"), detector(folder / "whole.png")
    assert len(found.polygons) > 0
    assert found.scores[:1] != exact.scores[:1]
    np.testing.assert_allclose(found.scores[:1], exact.scores[:1], atol=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 100}, r"image_size: .*multiple of 32 \(found 100\)"),
        ({"bin_thresh": 2}, r"postprocess.bin_thresh: .*less than 1 \(found 2\)"),
        ({"tile": "all"}, r"tile: expected none, auto, or the side of a tile in pixels .* at least 64 \(found 'all'\)"),
        ({"tile": 63}, r"at least 64 \(found 63\)"),
        ({"tile": True}, r"\(found True\)"),
        ({"tile": 159}, r"tile=159: each tile would be scaled up to image_size=320; expected at least 160"),
        ({"rotations": 45}, r"rotations: expected none, auto, or a list of turns among 0, 90, 180, 270 \(found 45\)"),
        ({"rotations": ()}, r"rotations: expected none"),
        ({"rotations": (0, 91)}, r"rotations: expected none"),
        ({"device": "cuda"}, r"device: .*'gpu' \(found 'cuda'\)"),
    ],
)
def test_wrong_arguments_are_named(untrained_checkpoint, arguments, message):
    with pytest.raises(InputError, match=message):
        TextDetector(untrained_checkpoint, **arguments)


def test_missing_checkpoint_and_image_are_named(detector, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.ckpt: no such file"):
        TextDetector(tmp_path / "none.ckpt")
    with pytest.raises(FileNotFoundError, match=r"none\.jpg: found no such file; expected an image file"):
        detector(tmp_path / "none.jpg")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"no image at all", r"image: found bytes b'no image'; expected a JPEG, PNG, TIFF, BMP, WebP or GIF"),
        (b"", r"image: found a file of 0 bytes; expected a JPEG, PNG"),
        (b"%PDF-1.7", r"image: found PDF content; expected JPEG, PNG, TIFF"),
        (
            np.zeros((4, 4, 3), np.float32),
            r"found an array of float32, shape \(4, 4, 3\); expected RGB uint8, \(height, ",
        ),
        (
            np.zeros((4, 4), np.uint8),
            r"found an array of uint8, shape \(4, 4\); expected RGB uint8, \(height, width, 3\)",
        ),
        (np.zeros((0, 4, 3), np.uint8), r"found 4 x 0 pixels; expected at least 1 x 1"),
        (None, r"found a NoneType; expected a path, bytes, a Pillow image or an array"),
    ],
)
def test_what_is_no_image_is_refused(detector, image, message):
    with pytest.raises(InputError, match=message):
        detector(image)


def test_damaged_file_in_a_list_is_named(detector, folder, tmp_path):
    encoded = (folder / "turned_1.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(encoded[: len(encoded) // 2])
    with pytest.raises(InputError, match=r"images\[1\], .*half\.jpg: found .*; expected a whole"):
        detector([folder / "turned_1.jpg", tmp_path / "half.jpg"])
    with pytest.raises(InputError, match=r"image: found .*; expected a whole"):
        detector(Image.open(tmp_path / "half.jpg"))
    with pytest.raises(InputError, match="found a folder; expected an image file"):
        detector(tmp_path)


def test_neither_lightning_nor_dali_nor_hydra_is_imported(untrained_checkpoint, folder):
    program = f"""
import sys
import ocr
assert "torch" not in sys.modules
from ocr import TextDetector
assert "timm" not in sys.modules
TextDetector({str(untrained_checkpoint)!r})({str(folder / "whole.png")!r}).draw()
print(sorted({{name.partition(".")[0] for name in sys.modules}} & {{"lightning", "pytorch_lightning", "nvidia", "hydra"}}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
