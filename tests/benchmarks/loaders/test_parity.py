"""Whether a drift of a row's pixels, polygons, maps or order is seen; and how far our own rows are from the oracle."""

from dataclasses import replace
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.loaders.config import CompareConfig, Level
from benchmarks.loaders.own_loaders import Keeps, OwnLoader
from benchmarks.loaders.parity import Parity, compare
from benchmarks.loaders.setting import Setting, evenly
from benchmarks.loaders.source import InputBatch
from dali_pipelines.source import PlannedSample
from ocr.datasets import plan as plan_module
from ocr.datasets.audit import load_manifest
from ocr.datasets.plan import EpochPlan
from ocr.datasets.schemas import DatasetConfig
from ocr.polygons import PolygonBatch
from ocr.synthetic.config import SyntheticConfig
from ocr.synthetic.data_set import draw_data_set

CPU = torch.device("cpu")


def setting_of(root: Path, num_images: int, **values: object) -> Setting:
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
    manifest = evenly(load_manifest(DatasetConfig.model_validate(split), max_megapixels=100)[0], num_images)
    return Setting(config, manifest, manifest, scratch=Path(gettempdir()))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    root = tmp_path_factory.mktemp("drawn")
    draw_data_set(SyntheticConfig(num_train=1, num_val=7, exif_share=0.6, blank_share=0.1), root)
    return setting_of(root, 7)


def given(setting: Setting, level: Level = "input+targets") -> tuple[list[InputBatch], list[PolygonBatch], EpochPlan]:
    loader = OwnLoader(setting, level, "torch", "nothing", CPU, num_workers=0)
    loader.keeps_polygons = True
    plan = loader.plan
    batches = list(loader.epoch())
    loader.close()
    return batches, loader.polygons_input, plan


def parity_of(setting: Setting, batches: list[InputBatch], polygons: list[PolygonBatch], plan: EpochPlan) -> Parity:
    return compare(batches, polygons, plan, setting.dataset("input+targets", 0))


def own_parity(setting: Setting, loader: str, keeps: Keeps, level: Level) -> Parity:
    own = OwnLoader(setting, level, loader, keeps, CPU, num_workers=0 if loader == "torch" else 1)
    list(own.epoch())  # fills what it keeps
    own.keeps_polygons = True
    plan = own.plan
    found = compare(list(own.epoch()), own.polygons_input, plan, setting.dataset(level, 0))
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
def test_our_rows_give_the_oracles_pixels_polygons_maps_and_order(drawn, loader, keeps):
    found = own_parity(drawn, loader, keeps, "input+targets")
    assert found.polygons_equal
    assert found.maps_equal
    assert found.in_order
    assert found.mean_levels < 0.15
    assert found.max_levels < 1.2  # one level, and the rounding of float16 tensors


@pytest.mark.parametrize("loader", ["torch", "dali"])
@pytest.mark.parametrize("data_set", ["sroie", "icdar15"])
def test_real_images_too(request, loader, data_set):
    setting = setting_of(request.getfixturevalue(data_set), 4)
    found = own_parity(setting, loader, "nothing", "input")
    assert found.polygons_equal
    assert found.in_order
    assert found.mean_levels < 0.15
    assert found.max_levels < 1.2


@pytest.mark.parametrize(("loader", "keeps"), [("torch", "nothing"), ("dali", "nothing"), ("dali", "images")])
def test_training_crops_are_the_plans(drawn, loader, keeps):
    augmented = replace(drawn, config=drawn.config.model_copy(update={"augment": True}))
    found = own_parity(augmented, loader, keeps, "input+targets")
    assert found.polygons_equal
    assert found.maps_equal
    assert found.in_order
    assert found.mean_levels < 0.5
    assert found.max_levels < 5  # interpolated and rounded twice


def test_shifted_pixels_are_seen(drawn):
    batches, polygons, plan = given(drawn)
    batches[0] = replace(batches[0], images=batches[0].images.roll(1, dims=3))
    assert parity_of(drawn, batches, polygons, plan).max_levels > 20


def test_swapped_channels_are_seen(drawn):
    batches, polygons, plan = given(drawn)
    batches[-1] = replace(batches[-1], images=batches[-1].images.flip(1))
    assert parity_of(drawn, batches, polygons, plan).mean_levels > 1


def test_a_moved_vertex_is_seen(drawn):
    batches, polygons, plan = given(drawn)
    moved = polygons[0].vertices.copy()
    moved[0, 0] += 0.1
    polygons[0] = replace(polygons[0], vertices=moved)
    found = parity_of(drawn, batches, polygons, plan)
    assert not found.polygons_equal
    assert found.maps_equal


def test_a_turned_ignore_flag_is_seen(drawn):
    batches, polygons, plan = given(drawn)
    polygons[0] = polygons[0].with_ignore(~polygons[0].ignore)
    assert not parity_of(drawn, batches, polygons, plan).polygons_equal


def test_a_drift_of_the_plan_itself_is_seen(drawn, monkeypatch):
    """Pixels and polygons of a loader agree with a wrong plan; the oracle does not know it."""
    to_the_right = np.array([[1, 0, 6], [0, 1, 0], [0, 0, 1]])
    right = plan_module.letterbox

    def drifted(*arguments: Any) -> PlannedSample:
        sample = right(*arguments)
        return replace(sample, input_from_original=to_the_right @ sample.input_from_original)

    monkeypatch.setattr(plan_module, "letterbox", drifted)
    batches, polygons, plan = given(drawn)
    found = parity_of(drawn, batches, polygons, plan)
    assert not found.polygons_equal
    assert not found.maps_equal


def test_a_black_batch_in_the_middle_is_seen(drawn):
    batches, polygons, plan = given(drawn)
    assert len(batches) == 3
    batches[1] = replace(batches[1], images=batches[1].images * 0)
    assert parity_of(drawn, batches, polygons, plan).mean_levels > 5


def test_another_type_is_told(drawn):
    batches, polygons, plan = given(drawn)
    assert parity_of(drawn, batches, polygons, plan).dtype == "float32"
    halves = [replace(batch, images=batch.images.half()) for batch in batches]
    assert parity_of(drawn, halves, polygons, plan).dtype == "float16"


def test_maps_of_another_image_are_seen(drawn):
    batches, polygons, plan = given(drawn)
    assert batches[0].targets is not None
    others = type(batches[0].targets)(
        **{name: value.flip(0) for name, value in vars(batches[0].targets).items()},
    )
    batches[0] = replace(batches[0], targets=others)
    found = parity_of(drawn, batches, polygons, plan)
    assert not found.maps_equal
    assert found.polygons_equal


def test_another_order_is_seen(drawn):
    batches, polygons, plan = given(drawn)
    order = [1, 0, *range(2, len(batches))]
    found = parity_of(drawn, [batches[place] for place in order], [polygons[place] for place in order], plan)
    assert not found.in_order
    assert found.max_levels < 1.2  # each image is compared with its own


def test_an_index_that_is_not_the_images_own_is_seen(drawn):
    batches, _, plan = given(drawn)
    batches[0] = replace(batches[0], indices=tuple(reversed(batches[0].indices)))
    assert compare(batches, None, plan, drawn.dataset("input+targets", 0)).mean_levels > 5


def test_images_are_spread_evenly_over_the_split_or_come_again(drawn):
    few = evenly(drawn.train, 3)
    assert few.filenames == tuple(drawn.train.filenames[place] for place in (0, 3, 6))
    np.testing.assert_array_equal(few.original_sizes, drawn.train.original_sizes[[0, 3, 6]])
    assert len(few.polygons) == 3
    many = evenly(drawn.train, 10)
    assert many.filenames == drawn.train.filenames + drawn.train.filenames[:3]
    assert len(set(many.sample_ids.tolist())) == 10


def test_an_epoch_keeps_all_workers_busy(drawn):
    asked = replace(drawn, config=drawn.config.model_copy(update={"num_images": None}))
    assert asked.num_images("input", 1) == 64
    assert asked.num_images("input", 16) == 8 * 3 * 16
    assert len(asked.dataset("input", 16)) == 384
    assert asked.num_images("train-step", 16) == 2 * 3
    assert drawn.num_images("input", 16) == 7
