"""The real DALI pipeline (CPU backend) against loader=torch, on real receipts, scenes and odd files."""

import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from dali_pipelines.config import AugmentationConfig, PipelineConfig
from dali_pipelines.source import SampleError
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.plan import SamplePlanner
from ocr.datasets.schemas import DatasetConfig
from ocr.loaders.batch import Batch
from ocr.loaders.engines import Engine
from ocr.loaders.loader import BatchLoader
from ocr.polygons import PolygonBatch

CPU = torch.device("cpu")


def split_config(root: Path, split: str = "val", **kwargs) -> DatasetConfig:
    return DatasetConfig(
        image_path=str(root / "images" / split), annotation_path=str(root / "jsons" / f"{split}.json"), **kwargs
    )


def make_dataset(
    config: DatasetConfig, *, training: bool, pipeline: PipelineConfig | None = None
) -> ValidatedOCRDataset:
    return ValidatedOCRDataset(config, SamplePlanner(pipeline or PipelineConfig(), training=training, seed=5))


def make_loader(dataset: ValidatedOCRDataset, loader: str = "dali", **kwargs) -> BatchLoader:
    kwargs = {"batch_size": 3} | kwargs
    engine = Engine(loader, CPU, kwargs.pop("num_workers", 0), kwargs.pop("skip_failures", True))
    return BatchLoader(dataset, engine, **kwargs)


def first(loader: BatchLoader, count: int) -> list[Batch]:
    return [batch for batch, _ in zip(loader, range(count), strict=False)]


def to_levels(images: torch.Tensor, config: PipelineConfig) -> np.ndarray:
    """(B, H, W, 3) levels 0 to 255 from normalised images."""
    return (images.permute(0, 2, 3, 1) * torch.tensor(config.std) + torch.tensor(config.mean)).numpy()


@pytest.fixture(scope="module")
def receipts(sroie: Path) -> ValidatedOCRDataset:
    return make_dataset(split_config(sroie), training=False)


@pytest.fixture(scope="module")
def training_receipts(receipts: ValidatedOCRDataset) -> ValidatedOCRDataset:
    planner = SamplePlanner(receipts.planner.config, training=True, seed=5)
    return ValidatedOCRDataset(receipts.config, planner, manifest=receipts.manifest)


@pytest.mark.parametrize("name", ["sroie", "icdar15"])
def test_dali_and_torch_give_the_same_pixels_for_evaluation(name, request):
    dataset = make_dataset(split_config(request.getfixturevalue(name)), training=False)
    for dali, plain in zip(first(make_loader(dataset), 4), first(make_loader(dataset, "torch"), 4), strict=True):
        difference = np.abs(
            to_levels(dali.images, dataset.planner.config) - to_levels(plain.images, dataset.planner.config)
        )
        assert difference.max() < 2
        assert difference.mean() < 0.1


def test_dali_and_torch_give_the_same_ids_order_polygons_and_targets_for_training(training_receipts):
    pixels = []
    for dali, plain in zip(
        first(make_loader(training_receipts), 4),
        first(make_loader(training_receipts, "torch", num_workers=1), 4),
        strict=True,
    ):
        assert [s.index for s in dali.samples] == [s.index for s in plain.samples]
        np.testing.assert_array_equal(dali.polygons_input.vertices, plain.polygons_input.vertices)
        np.testing.assert_array_equal(dali.polygons_input.ignore, plain.polygons_input.ignore)
        assert torch.equal(dali.targets.shrink_map, plain.targets.shrink_map)
        assert torch.equal(dali.targets.thresh_map, plain.targets.thresh_map)
        pixels.append((dali.images - plain.images).abs())
    # Beyond what is promised: OpenCV's warp rounds positions to 1/32 pixel, so a few levels remain.
    assert torch.cat(pixels).mean() * 58 < 0.3


def test_float16_is_float32_rounded(receipts):
    half = PipelineConfig(output_dtype="float16")
    dataset = ValidatedOCRDataset(
        receipts.config, SamplePlanner(half, training=False, seed=0), manifest=receipts.manifest
    )
    (wide,), (narrow,), (plain,) = (
        first(make_loader(receipts), 1),
        first(make_loader(dataset), 1),
        first(make_loader(dataset, "torch"), 1),
    )
    assert narrow.images.dtype == plain.images.dtype == torch.float16
    torch.testing.assert_close(narrow.images.float(), wide.images, atol=2e-3, rtol=0)


def drawn(polygon: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Filled at 1/16 pixel; continuous coordinates, so half a pixel is taken off for OpenCV."""
    canvas = np.zeros(size, np.uint8)
    cv2.fillPoly(canvas, [np.round((polygon - 0.5) * 16).astype(np.int32)], 255, shift=4)
    return canvas


@pytest.mark.parametrize("name", ["sroie", "icdar15", "odd_jpegs"])
def test_warping_a_drawn_polygon_is_drawing_the_warped_polygon(name, request, tmp_path):
    """A large polygon is drawn into a picture that DALI warps; the same polygon is moved by the plan's matrix."""
    root = request.getfixturevalue(name)
    if name == "odd_jpegs":
        sizes = [((300, 400), orientation) for orientation in range(1, 9)]
    else:
        manifest = make_dataset(split_config(root), training=False).manifest
        sizes = [((int(h), int(w)), 1) for h, w in manifest.stored_sizes[:6]]
    (tmp_path / "images").mkdir()
    words = {}
    for number, ((height, width), orientation) in enumerate(sizes):
        polygon = np.array([[0.2, 0.3], [0.7, 0.25], [0.75, 0.6], [0.5, 0.8], [0.25, 0.65]]) * (width, height)
        write_jpeg(tmp_path / "images" / f"{number}.jpg", drawn(polygon, (height, width)), orientation)
        words[f"{number}.jpg"] = {"words": {"0001": {"points": polygon.tolist()}}}
    write_annotations(tmp_path / "train.json", words)
    config = DatasetConfig(image_path=str(tmp_path / "images"), annotation_path=str(tmp_path / "train.json"))
    pipeline = PipelineConfig(
        augmentation=AugmentationConfig(scale_max=1.5, brightness=0, contrast=0, saturation=0, hue_degrees=0)
    )
    dataset = make_dataset(config, training=True, pipeline=pipeline)
    overlaps = []
    for epoch in range(3):
        for loader in ("dali", "torch"):
            batches = make_loader(dataset, loader)
            batches.set_epoch(epoch)
            for batch in batches:
                pictures = to_levels(batch.images, pipeline)[..., 1] > 127
                for image, picture in enumerate(pictures):
                    (polygon,) = batch.polygons_input.polygons_of(image)
                    expected = drawn(polygon, (640, 640)) > 127
                    if expected.sum() > 2000:
                        overlaps.append((picture & expected).sum() / (picture | expected).sum())
    assert len(overlaps) > 2 * len(sizes)
    assert min(overlaps) >= 0.97


def write_jpeg(path: Path, grey: np.ndarray, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(grey).convert("RGB").save(path, quality=95, exif=exif)


def write_annotations(path: Path, images: dict) -> None:
    import json

    path.write_text(json.dumps({"images": images}))


def test_an_abandoned_iteration_does_not_change_the_next_one(training_receipts):
    loader = make_loader(training_receipts)
    whole = [tuple(s.index for s in batch.samples) for batch in loader]
    assert sum(map(len, whole)) == len(training_receipts)
    for num_seen in (1, 3):  # a sanity check, limit_val_batches, a break
        first(loader, num_seen)
        again = list(loader)
        assert [tuple(s.index for s in batch.samples) for batch in again] == whole


@pytest.mark.parametrize("name", ["dali", "torch"])
def test_a_resumed_loader_goes_on_with_the_same_pixels(name, training_receipts):
    loader = make_loader(training_receipts, name)
    loader.set_epoch(2)
    seen = first(loader, 4)
    stopped = make_loader(training_receipts, name)
    stopped.set_epoch(2)
    iterator = iter(stopped)
    next(iterator), next(iterator)
    resumed = make_loader(training_receipts, name)
    resumed.load_state_dict(stopped.state_dict())
    for expected, batch in zip(seen[2:], first(resumed, 2), strict=True):
        assert torch.equal(batch.images, expected.images)
        assert [s.index for s in batch.samples] == [s.index for s in expected.samples]


def test_the_epoch_after_a_finished_one_starts_at_its_beginning(training_receipts):
    loader = make_loader(training_receipts, batch_size=32)
    list(loader)
    state = loader.state_dict()
    other = make_loader(training_receipts, batch_size=32)
    other.load_state_dict(state)
    other.set_epoch(1)
    assert sum(len(batch.samples) for batch in other) == len(training_receipts)


def test_padded_samples_have_empty_masks(training_receipts):
    loader = make_loader(
        training_receipts, rank=6, num_ranks=7
    )  # 60 images: 9 places a rank, the last of this one is padding
    *_, last = loader
    assert [s.is_padding for s in last.samples] == [False, False, True]
    assert last.targets.shrink_mask[-1].max() == 0
    assert last.targets.thresh_mask[-1].max() == 0
    assert last.targets.shrink_mask[0].max() == 1


def break_file(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("name", ["dali", "torch"])
def test_a_file_that_breaks_after_the_audit_costs_that_file_and_is_named(name, sroie, tmp_path):
    shutil.copytree(sroie / "images" / "val", tmp_path / "images" / "val")
    shutil.copytree(sroie / "jsons", tmp_path / "jsons")
    dataset = make_dataset(split_config(tmp_path), training=True)
    broken = dataset.manifest.image_paths[7]
    whole = list(make_loader(dataset, name))
    break_file(Path(broken))
    loader = make_loader(dataset, name)
    for expected, batch in zip(whole, loader, strict=True):
        for slot, sample in enumerate(batch.samples):
            if sample.index == 7:
                assert sample.is_padding
                assert batch.targets.shrink_mask[slot].max() == 0
                levels = to_levels(batch.images[slot : slot + 1], dataset.planner.config)
                np.testing.assert_allclose(levels, 0, atol=1e-4)  # black
            else:
                assert not sample.is_padding
                assert torch.equal(batch.images[slot], expected.images[slot])
    assert list(loader.failures) == [broken]

    strict = make_loader(dataset, name, skip_failures=False)
    with pytest.raises(SampleError, match=Path(broken).name):
        list(strict)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["dali", "torch"])
def test_a_picture_that_is_exchanged_for_a_smaller_one_costs_that_file_and_is_named(
    name, training, batch_size, sroie, tmp_path
):
    shutil.copytree(sroie / "images" / "val", tmp_path / "images" / "val")
    shutil.copytree(sroie / "jsons", tmp_path / "jsons")
    dataset = make_dataset(split_config(tmp_path), training=training)
    exchanged = dataset.manifest.image_paths[7]
    whole = list(make_loader(dataset, name, batch_size=batch_size))
    Image.new("RGB", (50, 40), "white").save(exchanged)
    loader = make_loader(dataset, name, batch_size=batch_size)
    failed = []
    for expected, batch in zip(whole, loader, strict=True):
        for slot, sample in enumerate(batch.samples):
            if sample.has_failed:
                failed.append(sample.index)
                levels = to_levels(batch.images[slot : slot + 1], dataset.planner.config)
                np.testing.assert_allclose(levels, 0, atol=1e-4)
            else:
                assert torch.equal(batch.images[slot], expected.images[slot])
    assert failed == [7]
    assert list(loader.failures) == [exchanged]
    assert re.search(r"the image is 40 x 50, expected \d+ x \d+.*: replaced since", loader.failures[exchanged])
    strict = make_loader(dataset, name, batch_size=batch_size, skip_failures=False)
    with pytest.raises(SampleError, match=rf"^{exchanged}: .*the image is 40 x 50"):
        list(strict)


@pytest.mark.parametrize("name", ["dali", "torch"])
def test_evaluation_notices_a_larger_picture_too(name, sroie, tmp_path):
    shutil.copytree(sroie / "images" / "val", tmp_path / "images" / "val")
    shutil.copytree(sroie / "jsons", tmp_path / "jsons")
    dataset = make_dataset(split_config(tmp_path), training=False)
    height, width = dataset.manifest.original_sizes[2]
    Image.new("RGB", (width + 1, height)).save(dataset.manifest.image_paths[2])
    loader = make_loader(dataset, name)
    (batch,) = first(loader, 1)
    assert [sample.has_failed for sample in batch.samples] == [False, False, True]
    assert f"is {height} x {width + 1}, expected {height} x {width}: repl" in next(iter(loader.failures.values()))


def test_evaluation_has_no_targets_and_polygons_in_the_input_frame(receipts):
    (batch,) = first(make_loader(receipts), 1)
    assert batch.targets is None
    height, width = batch.samples[0].resized_size
    vertices = np.concatenate(batch.polygons_input.polygons_of(0))
    assert vertices.min() >= 0
    assert (vertices <= (width, height)).all()


def test_the_plain_dataset_gives_what_the_loader_gives(training_receipts):
    training_receipts.set_epoch(0)
    (batch,) = first(make_loader(training_receipts, "torch"), 1)
    item = training_receipts[batch.samples[0].index]
    assert torch.equal(item["image"], batch.images[0])
    assert torch.equal(item["prob_map"], batch.targets.shrink_map[0])
    assert torch.equal(item["thresh_mask"], batch.targets.thresh_mask[0])
    moved = PolygonBatch.from_lists([item["polygons"]]).transformed(item["inverse_matrix"][None])
    np.testing.assert_allclose(
        moved.vertices,
        np.concatenate(training_receipts.manifest.polygons.polygons_of(batch.samples[0].index)),
        atol=1e-2,
    )
    assert item["filename"] == training_receipts.manifest.filenames[batch.samples[0].index]


def test_polygons_are_left_alone_by_the_move(training_receipts):
    before = training_receipts.manifest.polygons.vertices.copy()
    sample = training_receipts.planned(0)
    training_receipts.planner.input_polygons(training_receipts.manifest, [sample])
    np.testing.assert_array_equal(training_receipts.manifest.polygons.vertices, before)


@pytest.mark.gpu
@pytest.mark.parametrize("training", [True, False])
def test_gpu_decode_agrees_with_the_cpu(training, receipts):
    planner = SamplePlanner(PipelineConfig(output_dtype="float32"), training=training, seed=5)
    dataset = ValidatedOCRDataset(receipts.config, planner, manifest=receipts.manifest)
    on_gpu = BatchLoader(dataset, Engine("dali", torch.device("cuda", 0)), batch_size=3)
    for cpu, gpu in zip(first(make_loader(dataset), 4), first(on_gpu, 4), strict=True):
        difference = (cpu.images - gpu.images.cpu()).abs() * 58
        assert difference.mean() < 0.5
        np.testing.assert_array_equal(cpu.polygons_input.vertices, gpu.polygons_input.vertices)
