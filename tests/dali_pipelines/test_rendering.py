"""Compares CPU rendering with DALI's operators, which a GPU runs, and with the explicitly computed filter."""

import json
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from nvidia.dali import types
from PIL import Image

from dali_pipelines.config import AugmentationConfig, PipelineConfig
from dali_pipelines.eval import eval_pipeline
from dali_pipelines.feed import BatchFeed, SampleArrays
from dali_pipelines.loader import DaliLoader
from dali_pipelines.rendering import recolour, resize_region, resize_whole, warp
from dali_pipelines.source import SampleError, SourceImages
from dali_pipelines.train import train_pipeline
from ocr.datasets.audit import load_manifest
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.manifest import Manifest
from ocr.datasets.plan import EpochPlan, SamplePlanner
from ocr.datasets.schemas import DatasetConfig
from tests.dali_pipelines.odd_pictures import draw_odd_pictures

CONFIG = PipelineConfig(image_size=320, num_threads=1)
IN_PERSPECTIVE = PipelineConfig(image_size=320, num_threads=1, augmentation=AugmentationConfig(perspective=0.3))


@pytest.fixture
def odd_pictures(tmp_path: Path) -> Path:
    draw_odd_pictures(tmp_path)
    return tmp_path


@pytest.fixture(params=["drawn", "odd_pictures", "sroie", "icdar15", "odd_jpegs"])
def manifest(request: pytest.FixtureRequest) -> Manifest:
    root: Path = request.getfixturevalue(request.param)
    folder = root if request.param.startswith("odd_") else root / "images" / "val"
    planner = SamplePlanner(CONFIG, training=False, seed=3)
    return ValidatedOCRDataset(DatasetConfig(image_path=str(folder)), planner).manifest


def make_loader(
    manifest: Manifest, training: bool, batch_size: int, skip_failures: bool = True, config: PipelineConfig = CONFIG
) -> DaliLoader:
    return DaliLoader(
        SourceImages(manifest.image_paths, stored_sizes=manifest.stored_sizes, orientations=manifest.orientations),
        config,
        training=training,
        batch_size=batch_size,
        device=torch.device("cpu"),
        skip_failures=skip_failures,
    )


def rendered_by_dali_operators(
    manifest: Manifest, plan: EpochPlan, training: bool, config: PipelineConfig = CONFIG
) -> Iterator[torch.Tensor]:
    """Yields batches from the graph of a GPU, run by DALI's CPU operators."""
    source = SourceImages(manifest.image_paths)
    feed = BatchFeed(SampleArrays(source, training=training, in_perspective=config.in_perspective))
    graph = train_pipeline if training else eval_pipeline
    pipeline = graph(
        feed=feed.for_graph(),
        config=config,
        on_gpu=False,
        dtype=types.FLOAT,
        batch_size=plan.batch_size,
        num_threads=1,
        device_id=None,
    )
    feed.start((plan.batch(step) for step in range(len(plan))), num_ahead=2)
    for _ in range(len(plan)):
        (images,) = pipeline.run()
        feed.pop()
        yield torch.from_numpy(images.as_array())


# PyTorch rounds to whole levels after each axis, DALI once: up to an eighth of the pixels may differ by one level.
@pytest.mark.parametrize(
    ("config", "training", "worst", "mean"),
    [(CONFIG, False, 1, 0.15), (CONFIG, True, 3, 0.2), (IN_PERSPECTIVE, True, 3, 0.2)],
)
def test_cpu_rendering_agrees_with_dali_operators(config, training, worst, mean, manifest):
    plan = EpochPlan(manifest, SamplePlanner(config, training=training, seed=3), epoch=0, batch_size=4)
    loader = make_loader(manifest, training, batch_size=4, config=config)
    by_dali = rendered_by_dali_operators(manifest, plan, training, config)
    num_images = 0
    for found, expected, _ in zip(loader.batches(plan), by_dali, range(6), strict=False):
        levels = (found.images - expected).abs() * torch.tensor(CONFIG.std)[:, None, None]
        assert levels.max() < worst + 0.01
        assert levels.mean() < mean
        num_images += len(found.images)
    assert num_images == min(24, len(manifest.image_paths))
    assert not loader.failures


@pytest.fixture(scope="module")
def marks(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Two pictures of 1600 x 1200 pixels with white boxes, upright and rotated by EXIF, which are also the polygons."""
    root, words = tmp_path_factory.mktemp("marks"), {}
    (root / "images").mkdir()
    for orientation in (1, 6):
        exif, picture, boxes = Image.Exif(), np.zeros((1200, 1600, 3), np.uint8), {}
        exif[0x0112] = orientation
        for x, y in product(range(40, 1600, 320), range(40, 1200, 240)):
            picture[y : y + 160, x : x + 240] = 255
            box = [[x, y], [x + 240, y], [x + 240, y + 160], [x, y + 160]]
            boxes[f"{x}-{y}"] = {"points": box}
        name = f"{orientation}.jpg"
        Image.fromarray(picture).save(root / "images" / name, quality=95, subsampling=0, exif=exif)
        words[name] = {"words": boxes}
    (root / "marks.json").write_text(json.dumps({"images": words}))
    config = DatasetConfig(image_path=str(root / "images"), annotation_path=str(root / "marks.json"))
    return load_manifest(config, max_megapixels=100)[0]


def distances_to_edges(levels: np.ndarray, polygon: np.ndarray) -> list[float]:
    """Returns how many pixels outside of a polygon's sides its white mark ends, at 5 points of each side that is in view."""
    side, along, found = len(levels), np.linspace(-4, 4, 81), []
    for start, end in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        middle, across = polygon.mean(axis=0), (end - start)[::-1] * (1, -1) / np.linalg.norm(end - start)
        outwards = across * np.sign(across @ (start - middle))
        for share in np.linspace(0.3, 0.7, 5):
            points = start + share * (end - start) + along[:, None] * outwards
            if points.min() < 1 or points.max() > side - 1:
                continue
            x, y = (points - 0.5).astype(np.float32).T[:, None]  # OpenCV's pixel centres lie at whole numbers
            profile = cv2.remap(levels, x, y, cv2.INTER_LINEAR)[0]
            found.append(float(along[np.argmax(profile < 127.5)]))
    return found


@pytest.mark.parametrize("rendered_by", ["cpu", "cpu, scaled decoding", "DALI's operators"])
def test_marks_lie_under_their_polygons_in_perspective(rendered_by, marks):
    config = IN_PERSPECTIVE.model_copy(
        update={
            "scaled_decode": "scaled" in rendered_by,
            "augmentation": AugmentationConfig(
                perspective=0.4,
                rotation_degrees=30,
                scale_max=1.5,
                brightness=0,
                contrast=0,
                saturation=0,
                hue_degrees=0,
            ),
        }
    )
    planner, distances, scales = SamplePlanner(config, training=True, seed=1), [], []
    for epoch in range(5):
        plan = EpochPlan(marks, planner, epoch=epoch, batch_size=2)
        if rendered_by == "DALI's operators":
            batches = rendered_by_dali_operators(marks, plan, True, config)
        else:
            batches = (batch.images for batch in make_loader(marks, True, 2, config=config).batches(plan))
        for images, samples in zip(batches, map(plan.batch, range(len(plan))), strict=True):
            levels = images[:, 1].numpy() * config.std[1] + config.mean[1]
            polygons = planner.input_polygons(marks, samples)
            for row, matrix in enumerate(samples.input_from_original):
                scales.append(np.ptp(np.linalg.norm(np.diff(polygons.polygons_of(row), axis=1), axis=2)[:, 0]))
                assert matrix[2, :2].any()
                for polygon in polygons.polygons_of(row):
                    distances += distances_to_edges(levels[row], polygon)
    assert len(distances) > 1000
    assert np.abs(distances).max() < 0.5
    assert abs(np.mean(distances)) < 0.1
    assert max(scales) > 10  # the perspective makes equal boxes unequal


def filtered_explicitly(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns the image resized by the triangle filter with repeated outermost pixels, as one float64 matrix per axis."""
    for axis, target in enumerate(size):
        source = image.shape[axis]
        scale = source / target
        reach = max(1.0, scale)
        weights = np.zeros((target, source))
        for i in range(target):
            centre = (i + 0.5) * scale
            taps = np.arange(np.floor(centre - reach) - 1, np.ceil(centre + reach) + 1)
            shares = np.maximum(0, 1 - np.abs(taps + 0.5 - centre) / reach)
            np.add.at(weights[i], np.clip(taps, 0, source - 1).astype(int), shares / shares.sum())
        image = np.moveaxis(np.tensordot(weights, image, (1, axis)), 0, axis)
    return image


SIZES = [
    ((7, 9), (3, 4)),
    ((50, 3), (20, 1)),
    ((3, 50), (1, 20)),
    ((1, 1), (1, 1)),
    ((1, 40), (1, 10)),
    ((5, 5), (1, 1)),
    ((999, 12), (64, 1)),
    ((100, 100), (99, 99)),
    ((30, 20), (64, 50)),
    ((20, 90), (64, 31)),
    ((64, 64), (64, 64)),
]


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_resize_agrees_with_the_explicit_filter(source, target):
    image = np.random.default_rng(0).integers(0, 256, (*source, 3), np.uint8)
    found = resize_region(image, np.array([0, 0, source[1], source[0]], np.float32), target)
    assert found.shape == (*target, 3)
    assert found.flags.c_contiguous
    # Half a level per rounding: after each axis, and where the border is mixed in.
    assert np.abs(found - filtered_explicitly(image.astype(float), target)).max() <= 1.5


def test_halving_worked_by_hand():
    """Weights 1 3 3 1 of 8; with the outermost pixel repeated 4 3 1 of 8 at the border."""
    image = np.tile(np.array([0, 80, 160, 240], np.uint8)[None, :, None], (2, 1, 3))
    found = resize_region(image, np.array([0, 0, 4, 2], np.float32), (2, 2))
    assert found[:, :, 0].tolist() == [[50, 190], [50, 190]]


def test_a_region_is_resized_alone_and_the_image_is_not_changed():
    image = np.random.default_rng(1).integers(0, 256, (40, 60, 3), np.uint8)
    before = image.copy()
    image.flags.writeable = False  # like pixels decoded by Pillow
    found = resize_region(image, np.array([10, 5, 50, 35], np.float32), (15, 20))
    np.testing.assert_array_equal(found, resize_region(before[5:35, 10:50], np.array([0, 0, 40, 30]), (15, 20)))
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("in_perspective", [False, True])
def test_a_warp_by_whole_pixels_moves_pixels_and_fills_with_black(in_perspective):
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3) + 1
    found = warp(image, np.array([[1.0, 0, 2], [0, 1, -1], [0, 0, 1]]), 4, in_perspective)
    expected = np.zeros_like(image)
    expected[:3, 2:] = image[1:, :2]
    np.testing.assert_array_equal(found, expected)


def test_colours_are_mixed_offset_and_clamped():
    matrix = np.array([[0, 1, 0, 0], [2, 0, 0, 0], [0, 0, 1, -50]], np.float32)
    assert recolour(np.array([[[200, 30, 20]]], np.uint8), matrix).tolist() == [[[30, 255, 0]]]


def test_a_region_outside_the_image_is_refused():
    image = np.full((60, 80, 3), 7, np.uint8)
    for corner in ((80, 61), (81, 60)):
        region = np.array([10, 10, *corner], np.float32)
        with pytest.raises(
            ValueError,
            match=f"the image is 80 x 60 pixels, expected {corner[0]} x {corner[1]} at least: replaced since",
        ):
            resize_region(image, region, (20, 20))
    assert (resize_region(image, np.array([10, 10, 80, 60], np.float32), (20, 20)) == 7).all()


@pytest.mark.parametrize("size", [(60, 79), (60, 81), (59, 80), (61, 80)])
def test_a_whole_image_of_another_size_is_refused(size):
    region = np.array([0, 0, 80, 60], np.float32)
    with pytest.raises(
        ValueError, match=f"the image is {size[1]} x {size[0]} pixels, expected 80 x 60: replaced since it was"
    ):
        resize_whole(np.zeros((*size, 3), np.uint8), region, (30, 40))
    assert resize_whole(np.zeros((60, 80, 3), np.uint8), region, (30, 40)).shape == (30, 40, 3)


@pytest.mark.parametrize("training", [True, False])
def test_an_error_in_a_rendering_thread_names_the_file(training, drawn, tmp_path):
    for number, original in enumerate(sorted((drawn / "images" / "val").glob("*.jpg"))[:4]):
        (tmp_path / f"{number}.jpg").write_bytes(original.read_bytes())
    planner = SamplePlanner(CONFIG, training=training, seed=3)
    manifest = ValidatedOCRDataset(DatasetConfig(image_path=str(tmp_path)), planner).manifest
    Image.new("RGB", (2, 2)).save(tmp_path / "2.jpg")  # no region fits
    plan = EpochPlan(manifest, planner, epoch=0, batch_size=4)
    loader = make_loader(manifest, training, batch_size=4)
    (batch,) = loader.batches(plan)
    assert [sample.index for sample in batch.samples if sample.has_failed] == [2]
    assert list(loader.failures) == [str(tmp_path / "2.jpg")]
    assert re.fullmatch(
        r"the image is 2 x 2 pixels, expected .*: replaced since it was checked", *loader.failures.values()
    )
    with pytest.raises(SampleError, match=r"2\.jpg: DALI failed to process this file: the image is 2 x 2"):
        list(make_loader(manifest, training, batch_size=4, skip_failures=False).batches(plan))
