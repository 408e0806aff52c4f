"""Our own rows agree with the oracle, and a drift of pixels, polygons, maps or order is detected."""

import sys
from dataclasses import replace
from pathlib import Path
from tempfile import gettempdir
from typing import Any, Literal

import numpy as np
import pytest
import torch

from benchmarks.loaders.config import CompareConfig, Level
from benchmarks.loaders.own_loaders import Keeps, LoaderKind, OwnLoader
from benchmarks.loaders.parity import Parity, compare
from benchmarks.loaders.row_loader import CannotRun, InputBatch
from benchmarks.loaders.splits import spread_evenly
from benchmarks.loaders.workload import Workload
from dali_pipelines.config import AugmentationConfig
from dali_pipelines.source import PlannedBatch
from ocr.datasets import plan as plan_module
from ocr.datasets.audit import load_manifest
from ocr.datasets.plan import EpochPlan
from ocr.datasets.schemas import DatasetConfig
from ocr.polygons import PolygonBatch

CPU = torch.device("cpu")
Engine = Literal["dali", "torch"]


def workload_of(root: Path, num_images: int, **values: object) -> Workload:
    split = {"image_path": str(root / "images/val"), "annotation_path": str(root / "jsons/val.json")}
    config = CompareConfig.model_validate(
        {
            "device": "cpu",
            "pipeline": {"image_size": 256, "output_dtype": "float32"},
            "dataloader": {"batch_size": 3},
            "num_images": num_images,
            "datasets": {name: {"config": split} for name in ("train_dataset", "val_dataset")},
        }
        | values
    )
    manifest = spread_evenly(load_manifest(DatasetConfig.model_validate(split), max_megapixels=100)[0], num_images)
    return Workload(config, manifest, manifest, scratch=Path(gettempdir()))


@pytest.fixture(scope="module")
def workload(drawn: Path) -> Workload:
    return workload_of(drawn, 7)


def given(workload: Workload) -> tuple[list[InputBatch], EpochPlan]:
    loader = OwnLoader(workload, "input+targets", LoaderKind("torch"), CPU, num_workers=0)
    plan = loader.plan
    batches = list(loader.epoch())
    loader.close()
    return batches, plan


def parity_of(workload: Workload, batches: list[InputBatch], plan: EpochPlan) -> Parity:
    return compare(batches, plan, workload.dataset("input+targets", 0))


def own_parity(workload: Workload, engine: Engine, keeps: Keeps, level: Level) -> Parity:
    own = OwnLoader(workload, level, LoaderKind(engine, keeps), CPU, num_workers=0 if engine == "torch" else 1)
    list(own.epoch())  # fills what it keeps
    plan = own.plan
    found = compare(list(own.epoch()), plan, workload.dataset(level, 0))
    own.close()
    return found


OWN = [
    ("torch", "nothing"),
    ("torch", "files"),
    ("torch", "tensors"),
    ("dali", "nothing"),
    ("dali", "images"),
    ("dali", "tensors"),
]


@pytest.mark.parametrize(("loader", "keeps"), OWN)
def test_own_loaders_agree_with_the_oracle(workload, loader, keeps):
    found = own_parity(workload, loader, keeps, "input+targets")
    assert found.polygons_equal
    assert found.maps_equal
    assert found.in_order
    assert found.mean_levels < 0.15
    assert found.max_levels < 1.2  # one level, and the rounding of float16 tensors


@pytest.mark.parametrize("loader", ["torch", "dali"])
@pytest.mark.parametrize("data_set", ["sroie", "icdar15"])
def test_own_loaders_agree_with_the_oracle_on_real_images(request, loader, data_set):
    workload = workload_of(request.getfixturevalue(data_set), 4)
    found = own_parity(workload, loader, "nothing", "input")
    assert found.polygons_equal
    assert found.in_order
    assert found.mean_levels < 0.15
    assert found.max_levels < 1.2


@pytest.mark.parametrize(
    ("loader", "keeps", "perspective"),
    [("torch", "nothing", 0.0), ("dali", "nothing", 0.0), ("dali", "images", 0.0), ("dali", "nothing", 0.3)],
)
def test_training_crops_agree_with_the_oracle(workload, loader, keeps, perspective):
    pipeline = workload.config.pipeline.model_copy(update={"augmentation": AugmentationConfig(perspective=perspective)})
    config = workload.config.model_copy(update={"augment": True, "pipeline": pipeline})
    augmented = replace(workload, config=config)
    found = own_parity(augmented, loader, keeps, "input+targets")
    assert found.polygons_equal
    assert found.maps_equal
    assert found.in_order
    assert found.mean_levels < 0.5
    assert found.max_levels < 5  # interpolated and rounded twice


def polygons_of(batch: InputBatch) -> PolygonBatch:
    assert batch.move_polygons is not None
    return batch.move_polygons()


def test_shifted_pixels_are_seen(workload):
    batches, plan = given(workload)
    batches[0] = replace(batches[0], images=batches[0].images.roll(1, dims=3))
    assert parity_of(workload, batches, plan).max_levels > 20


def test_swapped_channels_are_seen(workload):
    batches, plan = given(workload)
    batches[-1] = replace(batches[-1], images=batches[-1].images.flip(1))
    assert parity_of(workload, batches, plan).mean_levels > 1


def test_a_moved_vertex_is_seen(workload):
    batches, plan = given(workload)
    polygons = polygons_of(batches[0])
    vertices = polygons.vertices.copy()
    vertices[0, 0] += 0.1
    moved = replace(polygons, vertices=vertices)
    batches[0] = replace(batches[0], move_polygons=lambda: moved)
    found = parity_of(workload, batches, plan)
    assert not found.polygons_equal
    assert found.maps_equal


def test_a_flipped_ignore_flag_is_seen(workload):
    batches, plan = given(workload)
    polygons = polygons_of(batches[0])
    turned = polygons.with_ignore(~polygons.ignore)
    batches[0] = replace(batches[0], move_polygons=lambda: turned)
    assert not parity_of(workload, batches, plan).polygons_equal


def test_a_drift_of_the_plan_itself_is_seen(workload, monkeypatch):
    """Pixels and polygons of a loader agree with a wrong plan; the oracle does not know it."""
    to_the_right = np.array([[1, 0, 6], [0, 1, 0], [0, 0, 1]])
    right = plan_module.letterbox

    def drifted(*arguments: Any) -> PlannedBatch:
        sample = right(*arguments)
        return replace(sample, input_from_original=to_the_right @ sample.input_from_original)

    monkeypatch.setattr(plan_module, "letterbox", drifted)
    batches, plan = given(workload)
    found = parity_of(workload, batches, plan)
    assert not found.polygons_equal
    assert not found.maps_equal


def test_a_black_batch_in_the_middle_is_seen(workload):
    batches, plan = given(workload)
    assert len(batches) == 3
    batches[1] = replace(batches[1], images=batches[1].images * 0)
    assert parity_of(workload, batches, plan).mean_levels > 5


def test_type_of_the_images_is_reported(workload):
    batches, plan = given(workload)
    assert parity_of(workload, batches, plan).dtype == "float32"
    halves = [replace(batch, images=batch.images.half()) for batch in batches]
    assert parity_of(workload, halves, plan).dtype == "float16"


def test_maps_of_another_image_are_seen(workload):
    batches, plan = given(workload)
    assert batches[0].targets is not None
    others = type(batches[0].targets)(
        **{name: value.flip(0) for name, value in vars(batches[0].targets).items()},
    )
    batches[0] = replace(batches[0], targets=others)
    found = parity_of(workload, batches, plan)
    assert not found.maps_equal
    assert found.polygons_equal


def test_another_order_is_seen(workload):
    batches, plan = given(workload)
    order = [1, 0, *range(2, len(batches))]
    found = parity_of(workload, [batches[place] for place in order], plan)
    assert not found.in_order
    assert found.max_levels < 1.2  # each image is compared with its own


def test_wrong_indices_are_seen(workload):
    batches, plan = given(workload)
    batches[0] = replace(batches[0], indices=tuple(reversed(batches[0].indices)))
    assert parity_of(workload, batches, plan).mean_levels > 5


def test_images_are_spread_evenly_and_repeat_where_there_are_too_few(workload):
    few = spread_evenly(workload.train, 3)
    assert few.filenames == tuple(workload.train.filenames[place] for place in (0, 3, 6))
    np.testing.assert_array_equal(few.original_sizes, workload.train.original_sizes[[0, 3, 6]])
    assert len(few.polygons) == 3
    many = spread_evenly(workload.train, 10)
    assert many.filenames == (*workload.train.filenames, *workload.train.filenames[:3])
    assert len(set(many.sample_ids.tolist())) == 10


def test_an_epoch_keeps_all_workers_busy(workload):
    asked = replace(workload, config=workload.config.model_copy(update={"num_images": None}))
    assert asked.num_images("input", 1) == 64
    assert asked.num_images("input", 16) == 8 * 3 * 16
    assert len(asked.dataset("input", 16)) == 384
    assert asked.num_images("train-step", 16) == 2 * 3
    assert workload.num_images("input", 16) == 7


def test_a_row_of_dali_says_that_dali_is_missing(workload, monkeypatch):
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    with pytest.raises(CannotRun, match="needs NVIDIA DALI"):
        OwnLoader(workload, "input", LoaderKind("dali"), CPU, num_workers=1)
