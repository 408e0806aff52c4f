"""Several data sets in one split: configuration, manifest and plan."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from dali_pipelines.config import PipelineConfig
from ocr.config import DatasetsConfig
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.manifest import SET_SHIFT, Manifest
from ocr.datasets.plan import EpochPlan, SamplePlanner
from ocr.datasets.reference_plan import plan_sample
from ocr.datasets.schemas import DatasetConfig
from ocr.datasets.sets import load_split, maps_names


def split_of(*sets: dict[str, object], **values: object) -> DatasetConfig:
    return DatasetConfig.model_validate({"image_path": "???", "sets": sets, **values})


def places(root: Path, split: str = "train", **values: object) -> dict[str, object]:
    return {"image_path": f"{root}/images/{split}", "annotation_path": f"{root}/jsons/{split}.json"} | values


def load(config: DatasetConfig, report_path: Path | None = None) -> Manifest:
    return load_split(config, max_megapixels=100, report_path=report_path)[0]


def assert_same(first: Manifest, second: Manifest) -> None:
    assert (first.image_paths, first.filenames, first.num_listed) == (
        second.image_paths,
        second.filenames,
        second.num_listed,
    )
    for name in ("sample_ids", "stored_sizes", "orientations"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    for name in ("vertices", "vertex_starts", "polygon_starts", "ignore"):
        np.testing.assert_array_equal(getattr(first.polygons, name), getattr(second.polygons, name))


def test_a_list_of_one_is_the_plain_form(drawn, tmp_path):
    plain = DatasetConfig.model_validate(places(drawn))
    listed = split_of(places(drawn, weight=3, name="only"))
    assert listed.without_list_of_one() == plain
    manifest = load(listed, tmp_path / "audit_train.json")
    assert_same(manifest, load(plain))
    assert manifest.sets == ()
    assert (tmp_path / "audit_train.json").is_file()


def test_two_sets_are_one_after_the_other(drawn, tmp_path):
    own = shutil.copytree(drawn, tmp_path / "own")
    first, second = load(DatasetConfig(**places(own))), load(DatasetConfig(**places(drawn, "val")))
    manifest = load(split_of(places(own), places(drawn, "val")), tmp_path / "audit_train.json")
    assert [(one.name, one.num_images, one.num_listed) for one in manifest.sets] == [
        (next(iter(split_of(places(own), places(drawn, "val")).each_set())), 10, 10),
        (manifest.sets[1].name, 8, 8),
    ]
    assert manifest.image_paths == (*first.image_paths, *second.image_paths)
    assert manifest.sample_ids.tolist() == [*range(10), *(np.arange(8) + (1 << SET_SHIFT))]
    for index in range(18):
        part, own_index = (first, index) if index < 10 else (second, index - 10)
        for found, expected in zip(
            manifest.polygons.polygons_of(index), part.polygons.polygons_of(own_index), strict=True
        ):
            np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(manifest.polygons.ignore_of(index), part.polygons.ignore_of(own_index))
    assert {path.name for path in tmp_path.glob("audit*")} == {f"audit_train_{one.name}.json" for one in manifest.sets}


def test_equal_file_names_get_the_name_of_their_set(drawn, tmp_path):
    shutil.copytree(drawn, tmp_path / "own")
    sets = [places(drawn, name="drawn"), places(tmp_path / "own", name="own")]
    manifest = load(split_of(*sets))
    assert len(set(manifest.filenames)) == 20
    names = load(DatasetConfig(**places(drawn))).filenames
    assert manifest.filenames == (*(f"drawn/{name}" for name in names), *(f"own/{name}" for name in names))
    # Offline maps stay where prepare_data.py writes them.
    expected = [
        f"{Path(root).resolve()}/images/train_maps/{name}" for root in (drawn, tmp_path / "own") for name in names
    ]
    assert list(maps_names(split_of(*sets), manifest)) == expected


def test_maps_of_several_sets_are_read_from_the_folder_of_each(drawn, tmp_path, prepare):
    sets = []
    for name in ("a", "b"):
        root = tmp_path / name
        prepare(drawn, root, canonical=False, maps=True)
        sets.append(places(root, "val", name=name))
    dataset = ValidatedOCRDataset(
        split_of(*sets, load_maps=True), SamplePlanner(PipelineConfig(), training=False, seed=0)
    )
    dataset.make_targets(dataset.planned([0, 9]))
    assert dataset.offline_maps is not None
    assert (dataset.offline_maps.hits, dataset.offline_maps.fallbacks) == (2, 0)


def test_a_data_set_object_reads_several_sets(drawn, tmp_path):
    shutil.copytree(drawn, tmp_path / "own")
    planner = SamplePlanner(PipelineConfig(image_size=320), training=False, seed=0)
    dataset = ValidatedOCRDataset(split_of(places(drawn), places(tmp_path / "own")), planner)
    assert len(dataset) == 20
    np.testing.assert_array_equal(dataset[3]["image"], dataset[13]["image"])


@pytest.fixture
def weighted(drawn: Path, tmp_path: Path) -> Manifest:
    shutil.copytree(drawn, tmp_path / "own")
    return load(split_of(places(drawn, weight=1), places(tmp_path / "own", "val", weight=3)))


def drawn_samples(manifest: Manifest, batch_size: int = 4, num_ranks: int = 1, num_done: int = 0) -> list[bytes]:
    """Returns the matrices of an epoch's samples in the order of all ranks together."""
    planner = SamplePlanner(PipelineConfig(image_size=320), training=True, seed=7)
    plans = [
        EpochPlan(manifest, planner, epoch=2, batch_size=batch_size, rank=rank, num_ranks=num_ranks, num_done=num_done)
        for rank in range(num_ranks)
    ]
    ranks = [
        [s.input_from_original.tobytes() for n in range(len(plan)) for s in plan.batch(n) if not s.is_padding]
        for plan in plans
    ]
    longest = max(map(len, ranks))
    return [samples[place] for place in range(longest) for samples in ranks if place < len(samples)]


def test_weighted_samples_are_the_same_for_all_batches_ranks_and_resumes(weighted):
    expected = drawn_samples(weighted)
    assert len(expected) == len(set(expected)) == len(weighted) == 18  # a repeated image is augmented anew
    assert drawn_samples(weighted, batch_size=7) == expected
    assert drawn_samples(weighted, num_ranks=4) == expected
    assert drawn_samples(weighted, batch_size=3, num_ranks=2, num_done=8) == expected[8:]


def test_a_repeated_image_has_the_random_numbers_of_its_pass(weighted):
    planner = SamplePlanner(PipelineConfig(image_size=320), training=True, seed=7)
    compiled = planner.plan_batch(weighted, [12, 12], 2, passes=[0, 1])
    for row, number_of_pass in enumerate((0, 1)):
        reference = plan_sample(planner, weighted, 12, 2, number_of_pass)
        np.testing.assert_allclose(compiled[row].input_from_original, reference.input_from_original, atol=1e-9)
    assert not np.allclose(compiled[0].input_from_original, compiled[1].input_from_original)


def test_evaluation_uses_every_image_once_whatever_the_weights(weighted):
    planner = SamplePlanner(PipelineConfig(image_size=320), training=False, seed=7)
    plan = EpochPlan(weighted, planner, epoch=2, batch_size=5)
    assert [s.index for n in range(len(plan)) for s in plan.batch(n)] == list(range(18))


def test_names_are_the_folders_in_which_the_paths_differ():
    assert split_of({"image_path": "/d/a/train"}, {"image_path": "/d/b c/train"}).set_names == ["a", "b_c"]
    assert split_of({"image_path": "/d/a/x"}, {"image_path": "/d/a/y"}, {"image_path": "/d/b"}).set_names == [
        "set1",
        "set2",
        "set3",
    ]
    assert split_of({"image_path": "/d/a", "name": "x"}, {"image_path": "/d/b"}).set_names == ["x", "b"]


@pytest.mark.parametrize(
    ("sets", "found"),
    [
        ([{"image_path": "a", "name": "x"}, {"image_path": "b", "name": "x"}], "the name x comes 2 times"),
        ([{"image_path": "a", "weight": 1}, {"image_path": "b"}], "b without weight"),
        ([{"image_path": "a", "weight": 0}], "greater than 0"),
        ([{"image_path": "a", "name": "x/y"}], "match pattern"),
        ([{"annotation_path": "a"}], "image_path"),
        ([{"image_path": "a", "preload_images": True}], "preload_images"),
    ],
)
def test_wrong_lists_are_named(sets, found):
    with pytest.raises(ValidationError, match=found):
        split_of(*sets)


def test_config_given_as_a_list_means_its_sets():
    config = DatasetsConfig.model_validate(
        {
            "train_dataset": {"config": [{"image_path": "a"}, {"image_path": "b"}]},
            "val_dataset": {"config": [{"image_path": "c", "annotation_path": "d"}]},
        }
    )
    assert [one.image_path for one in config.split("train").sets] == ["a", "b"]
    assert (config.split("val").image_path, config.split("val").sets) == ("c", ())
    assert config.split("val").preload_images
    assert json.loads(config.model_dump_json()) == json.loads(
        DatasetsConfig.model_validate(config.model_dump(mode="json")).model_dump_json()
    )


def test_prediction_takes_one_folder():
    with pytest.raises(ValidationError, match="one folder of images"):
        DatasetsConfig.model_validate({"predict_dataset": {"config": [{"image_path": "a"}]}})
