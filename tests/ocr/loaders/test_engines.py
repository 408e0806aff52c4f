"""DALI on the CPU and on the GPU against PyTorch workers: the same images, polygons and targets for the same plan."""

import json
import sys
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from dali_pipelines.config import AugmentationConfig, PipelineConfig
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.plan import SamplePlanner
from ocr.datasets.schemas import DatasetConfig
from ocr.environment import dali_version
from ocr.errors import InputError
from ocr.loaders.engines import Engine, check_dali, has_dali
from ocr.loaders.loader import BatchLoader
from ocr.polygons import PolygonBatch
from tests.ocr.loaders.batches import CPU, first_batches, to_levels, uncached_dataset


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
    for dali, plain in zip(
        first_batches(make_loader(dataset), 4), first_batches(make_loader(dataset, "torch"), 4), strict=True
    ):
        difference = np.abs(
            to_levels(dali.images, dataset.planner.config) - to_levels(plain.images, dataset.planner.config)
        )
        assert difference.max() < 2
        assert difference.mean() < 0.1


@pytest.mark.parametrize("perspective", [0.0, 0.3])
def test_dali_and_torch_give_the_same_ids_order_polygons_and_targets_for_training(perspective, receipts):
    pixels = []
    config = PipelineConfig(augmentation=AugmentationConfig(perspective=perspective))
    planner = SamplePlanner(config, training=True, seed=5)
    dataset = ValidatedOCRDataset(receipts.config, planner, manifest=receipts.manifest)
    for dali, plain in zip(
        first_batches(make_loader(dataset), 4),
        first_batches(make_loader(dataset, "torch", num_workers=1), 4),
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


def test_float16_is_float32_rounded(drawn):
    wide, half = (
        uncached_dataset(drawn, training=False, pipeline=PipelineConfig(image_size=160, output_dtype=dtype))
        for dtype in ("float32", "float16")
    )
    expected = torch.cat([batch.images for batch in make_loader(wide)])
    for name in ("dali", "torch"):
        found = torch.cat([batch.images for batch in make_loader(half, name)])
        assert found.dtype == torch.float16
        torch.testing.assert_close(found.float(), expected, atol=2e-3, rtol=0)


def filled(polygon: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns the filled polygon, drawn at 1/16 pixel; OpenCV needs the continuous coordinates minus half a pixel."""
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
        write_jpeg(tmp_path / "images" / f"{number}.jpg", filled(polygon, (height, width)), orientation)
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
                    expected = filled(polygon, (640, 640)) > 127
                    if expected.sum() > 2000:
                        overlaps.append((picture & expected).sum() / (picture | expected).sum())
    assert len(overlaps) > 2 * len(sizes)
    assert min(overlaps) >= 0.97


def write_jpeg(path: Path, grey: np.ndarray, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(grey).convert("RGB").save(path, quality=95, exif=exif)


def write_annotations(path: Path, images: dict) -> None:
    path.write_text(json.dumps({"images": images}))


def test_the_plain_dataset_gives_what_the_loader_gives(training_receipts):
    training_receipts.set_epoch(0)
    (batch,) = first_batches(make_loader(training_receipts, "torch"), 1)
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


def test_empty_folders_of_a_removed_dali_count_as_no_dali(monkeypatch):
    monkeypatch.setitem(sys.modules, "nvidia.dali", ModuleType("nvidia.dali"))  # what `import` makes of the folders
    assert not has_dali()
    assert dali_version() is None
    with pytest.raises(InputError, match=r"^loader=dali needs NVIDIA DALI, .* use loader=torch"):
        check_dali("dali")


@pytest.mark.gpu
@pytest.mark.parametrize(("training", "perspective"), [(True, 0.0), (True, 0.3), (False, 0.0)])
def test_gpu_decode_agrees_with_the_cpu(training, perspective, receipts):
    config = PipelineConfig(output_dtype="float32", augmentation=AugmentationConfig(perspective=perspective))
    planner = SamplePlanner(config, training=training, seed=5)
    dataset = ValidatedOCRDataset(receipts.config, planner, manifest=receipts.manifest)
    on_gpu = BatchLoader(dataset, Engine("dali", torch.device("cuda", 0)), batch_size=3)
    for cpu, gpu in zip(first_batches(make_loader(dataset), 4), first_batches(on_gpu, 4), strict=True):
        difference = (cpu.images - gpu.images.cpu()).abs() * 58
        assert difference.mean() < 0.5
        np.testing.assert_array_equal(cpu.polygons_input.vertices, gpu.polygons_input.vertices)
