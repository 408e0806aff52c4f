"""The compiled plan gives what `reference_plan` gives, for real and drawn data sets and for odd shapes."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from dali_pipelines.config import AugmentationConfig, PipelineConfig
from ocr.datasets.audit import load_manifest
from ocr.datasets.manifest import Manifest
from ocr.datasets.plan import EpochPlan, PlannedText, SamplePlanner
from ocr.datasets.reference_plan import plan_sample, polygons_of_sample
from ocr.datasets.schemas import DatasetConfig
from ocr.polygons import PolygonBatch
from ocr.targets.agreement import random_polygons
from ocr.targets.config import TargetConfig

AUGMENTATIONS = {
    "defaults": AugmentationConfig(),
    "upright": AugmentationConfig(rotation_degrees=0, crop_candidates=5, min_visible=0.9),
    "wild": AugmentationConfig(rotation_degrees=90, scale_min=0.1, scale_max=9, crop_candidates=1),
    "in perspective": AugmentationConfig(perspective=0.1),
    "steep": AugmentationConfig(perspective=0.4, rotation_degrees=90, scale_min=0.1, scale_max=9, crop_candidates=3),
}


def odd_images() -> Manifest:
    """Images with many polygons, none, one of 500 vertices, and polygons outside; of 1 x 1 to 40 x 9000 pixels."""
    rng = np.random.default_rng(5)
    sizes = [(600, 800), (1, 1), (40, 9000), (9000, 40), (700, 500), (640, 640)]
    drawn = random_polygons(rng, len(sizes), 40, (700, 700))
    polygons = [drawn.polygons_of(image) for image in range(len(sizes))]
    polygons[1] = []
    turn = np.linspace(0, 2 * np.pi, 500, endpoint=False)
    polygons[4] = [np.stack([250 + 200 * np.cos(turn), 300 + 150 * np.sin(turn)], axis=1)]
    ignore = [(rng.random(len(image)) < 0.2).tolist() for image in polygons]
    return Manifest(
        image_paths=tuple(f"/{i}.jpg" for i in range(len(sizes))),
        filenames=tuple(f"{i}.jpg" for i in range(len(sizes))),
        sample_ids=np.array([0, 3, 4, 7, 8, 9]),
        stored_sizes=np.array(sizes, np.int32),
        orientations=np.array([1, 1, 6, 1, 8, 3], np.uint8),
        polygons=PolygonBatch.from_lists(polygons, ignore),
        num_listed=10,
    )


def manifest_of(root: Path) -> Manifest:
    images, annotations = root / "images" / "train", root / "jsons" / "train.json"
    return load_manifest(DatasetConfig(image_path=str(images), annotation_path=str(annotations)), max_megapixels=200)[0]


def assert_as_planned_one_by_one(manifest: Manifest, planner: SamplePlanner, epoch: int, num_images: int) -> None:
    indices = np.random.default_rng(epoch).permutation(len(manifest))[:num_images]
    samples = planner.plan_batch(manifest, indices, epoch)
    polygons = planner.input_polygons(manifest, samples)
    assert samples.indices.tolist() == indices.tolist()
    for row, index in enumerate(indices):
        expected, found = plan_sample(planner, manifest, int(index), epoch), samples[row]
        assert found.resized_size == expected.resized_size
        np.testing.assert_array_equal(found.region_xyxy, expected.region_xyxy)
        # Equal on a machine whose BLAS has fused multiply-add; another one may round the last bit differently.
        np.testing.assert_allclose(found.input_from_original, expected.input_from_original, rtol=1e-12, atol=1e-9)
        np.testing.assert_allclose(found.input_from_resized, expected.input_from_resized, rtol=1e-12, atol=1e-9)
        np.testing.assert_allclose(found.colour_matrix, expected.colour_matrix, rtol=1e-6, atol=1e-5)
        expected_polygons = polygons_of_sample(planner, manifest, expected)
        assert len(polygons.polygons_of(row)) == expected_polygons.num_polygons
        for one, other in zip(polygons.polygons_of(row), expected_polygons.polygons_of(0), strict=True):
            np.testing.assert_allclose(one, other, rtol=2e-7, atol=1e-6)
        np.testing.assert_array_equal(polygons.ignore_of(row), expected_polygons.ignore)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_odd_images_are_planned_as_one_by_one(augmentation, training):
    config = PipelineConfig(image_size=320, augmentation=AUGMENTATIONS[augmentation])
    for seed in range(10):
        planner = SamplePlanner(config, training=training, seed=seed)
        assert_as_planned_one_by_one(odd_images(), planner, epoch=seed, num_images=6)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["drawn", "sroie", "icdar15"])
def test_data_sets_are_planned_as_one_by_one(name, training, request):
    manifest = manifest_of(request.getfixturevalue(name))
    for seed, augmentation in enumerate(AUGMENTATIONS.values()):
        planner = SamplePlanner(PipelineConfig(augmentation=augmentation), training=training, seed=seed)
        assert_as_planned_one_by_one(manifest, planner, epoch=7 * seed, num_images=40)


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_each_batch_is_planned_as_one_by_one_at_any_step(batch_size, num_ranks):
    manifest = odd_images()
    planner = SamplePlanner(PipelineConfig(), training=True, seed=2)
    for rank in range(num_ranks):
        for step in range(-(-len(manifest) // (batch_size * num_ranks))):
            # A plan of its own for each step, as a run that resumes there has.
            plan = EpochPlan(manifest, planner, epoch=1, batch_size=batch_size, rank=rank, num_ranks=num_ranks)
            for sample in plan.batch(step):
                expected = plan_sample(planner, manifest, sample.index, epoch=1)
                np.testing.assert_allclose(sample.input_from_original, expected.input_from_original, rtol=1e-12)
                np.testing.assert_array_equal(sample.region_xyxy, expected.region_xyxy)


def test_no_images_give_an_empty_batch():
    planner = SamplePlanner(PipelineConfig(), training=True, seed=0)
    samples = planner.plan_batch(odd_images(), [], epoch=0)
    assert len(samples) == len(planner.input_polygons(odd_images(), samples)) == 0


def test_measured_polygons_ride_along_and_are_found_again_for_chosen_rows():
    planner, targets = SamplePlanner(PipelineConfig(), training=True, seed=4), TargetConfig(map_stride=2)
    plan = EpochPlan(
        odd_images(), planner, epoch=3, batch_size=4, add_text=partial(planner.with_text, odd_images(), targets=targets)
    )
    samples = plan.batch(0)
    assert isinstance(samples, PlannedText)
    assert planner.with_text(odd_images(), samples, targets) is samples
    assert samples.with_failed([2]).polygons_input is samples.polygons_input
    again = planner.with_text(odd_images(), samples.select([0, 1, 2, 3]), targets)
    assert np.array_equal(again.polygons_input.vertices, samples.polygons_input.vertices)
    assert np.array_equal(again.outlines.windows, samples.outlines.windows)
    assert np.array_equal(again.outlines.distance, samples.outlines.distance)
    chosen = planner.with_text(odd_images(), samples.select([2]), targets)
    assert np.array_equal(
        chosen.polygons_input.vertices, np.concatenate([*samples.polygons_input.polygons_of(2), np.zeros((0, 2))])
    )
