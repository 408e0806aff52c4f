from functools import partial

import numpy as np
import pytest

from dali_pipelines import geometry
from dali_pipelines.config import AugmentationConfig, PipelineConfig
from dali_pipelines.memory import largest_resized
from ocr.datasets.manifest import Manifest
from ocr.datasets.plan import EpochPlan, SamplePlanner
from ocr.datasets.reference_plan import visible_fractions
from ocr.polygons import PolygonBatch
from ocr.targets.config import TargetConfig

NUM_SAMPLES = 23


def make_manifest(kept: list[int] | None = None, num_listed: int = NUM_SAMPLES) -> Manifest:
    """Images of different sizes with a few boxes each; `kept` are the listed samples that were not skipped."""
    rng = np.random.default_rng(0)
    sizes, polygons = [], []
    for _ in range(num_listed):
        height, width = rng.integers(300, 1200, 2)
        sizes.append((height, width))
        corners = rng.random((5, 2)) * (width - 100, height - 40)
        polygons.append([[(x, y), (x + 90, y), (x + 90, y + 30), (x, y + 30)] for x, y in corners])
    kept = list(range(num_listed)) if kept is None else kept
    return Manifest(
        image_paths=tuple(f"/images/{i}.jpg" for i in kept),
        filenames=tuple(f"{i}.jpg" for i in kept),
        sample_ids=np.array(kept, np.int64),
        stored_sizes=np.array([sizes[i] for i in kept], np.int32),
        orientations=np.ones(len(kept), np.uint8),
        polygons=PolygonBatch.from_lists([polygons[i] for i in kept]),
        num_listed=num_listed,
    )


def without_text(size: tuple[int, int]) -> Manifest:
    """Returns the manifest of one image without polygons."""
    return Manifest(
        image_paths=("/images/0.jpg",),
        filenames=("0.jpg",),
        sample_ids=np.zeros(1, np.int64),
        stored_sizes=np.array([size], np.int32),
        orientations=np.ones(1, np.uint8),
        polygons=PolygonBatch.from_lists([[]]),
        num_listed=1,
    )


def make_plan(manifest=None, *, training=True, seed=3, epoch=0, perspective=0.0, **kwargs) -> EpochPlan:
    config = PipelineConfig(augmentation=AugmentationConfig(perspective=perspective))
    planner = SamplePlanner(config, training=training, seed=seed)
    kwargs.setdefault("batch_size", 4)
    return EpochPlan(manifest or make_manifest(), planner, epoch=epoch, **kwargs)


def all_samples(plan: EpochPlan):
    return [sample for step in range(len(plan)) for sample in plan.batch(step)]


def parameters(sample) -> bytes:
    arrays = (sample.region_xyxy, sample.resized_size, sample.input_from_resized, sample.input_from_original)
    return b"".join(np.asarray(array).tobytes() for array in (*arrays, sample.colour_matrix))


def by_index(plans) -> dict[int, bytes]:
    return {s.index: parameters(s) for plan in plans for s in all_samples(plan) if not s.is_padding}


def test_the_following_plan_is_the_next_epoch_whole_on_the_same_rank():
    manifest, planner = make_manifest(), SamplePlanner(PipelineConfig(), training=True, seed=3)
    settings = {"batch_size": 2, "rank": 1, "num_ranks": 2}
    plan = EpochPlan(manifest, planner, epoch=1, num_epochs=3, num_done=4, **settings)
    expected = EpochPlan(manifest, planner, epoch=2, num_epochs=3, **settings)
    assert plan.following == expected
    assert by_index([plan.following]) == by_index([expected])
    assert expected.following is None
    assert make_plan().following is None


@pytest.mark.parametrize(
    "other", [{"epoch": 1}, {"batch_size": 2}, {"rank": 1}, {"num_ranks": 3}, {"num_epochs": 5}, {"num_done": 1}]
)
def test_plans_of_other_arguments_are_not_equal(other):
    manifest, planner = make_manifest(), SamplePlanner(PipelineConfig(), training=True, seed=3)
    settings = {"epoch": 0, "batch_size": 4, "rank": 0, "num_ranks": 2, "num_epochs": 4}
    plan = EpochPlan(manifest, planner, **settings)
    assert plan == EpochPlan(manifest, planner, **settings)
    assert plan != EpochPlan(manifest, planner, **(settings | other))
    assert plan != EpochPlan(make_manifest(), planner, **settings)
    assert plan != EpochPlan(
        manifest, planner, add_text=partial(planner.with_text, manifest, targets=TargetConfig()), **settings
    )


@pytest.mark.parametrize("batch_size", [1, 4, 16])
@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_a_sample_gets_the_same_parameters_for_any_batch_size_and_number_of_ranks(batch_size, num_ranks):
    plans = [make_plan(batch_size=batch_size, rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)]
    assert by_index(plans) == by_index([make_plan()])


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 5, 40])
@pytest.mark.parametrize("training", [True, False])
def test_each_sample_is_seen_once_over_all_ranks_which_take_equally_many_steps(num_ranks, training):
    plans = [make_plan(training=training, rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)]
    seen = [s.index for plan in plans for s in all_samples(plan) if not s.is_padding]
    assert sorted(seen) == list(range(NUM_SAMPLES))
    assert len({(len(plan), len(all_samples(plan))) for plan in plans}) == 1


def test_ranks_take_turns_in_the_order_of_one_rank():
    whole = [s.index for s in all_samples(make_plan())]
    first, second = ([s.index for s in all_samples(make_plan(rank=rank, num_ranks=2))] for rank in range(2))
    assert first == whole[0::2]
    assert second == [*whole[1::2], whole[0]]  # the tail is filled up, and marked
    assert all_samples(make_plan(rank=1, num_ranks=2))[-1].is_padding


def test_epochs_and_seeds_differ_and_repeat():
    assert by_index([make_plan(epoch=1)]) != by_index([make_plan()])
    assert by_index([make_plan(seed=4)]) != by_index([make_plan()])
    assert [s.index for s in all_samples(make_plan(epoch=1))] != [s.index for s in all_samples(make_plan())]
    assert [s.index for s in all_samples(make_plan(epoch=7))] == [s.index for s in all_samples(make_plan(epoch=7))]


def test_a_skipped_sample_leaves_order_and_parameters_of_the_others():
    skipped = 11
    kept = [i for i in range(NUM_SAMPLES) if i != skipped]
    shorter = all_samples(make_plan(make_manifest(kept)))
    whole = [s for s in all_samples(make_plan()) if s.index != skipped]
    assert [kept[s.index] for s in shorter] == [s.index for s in whole]
    assert [parameters(s) for s in shorter] == [parameters(s) for s in whole]


def test_evaluation_keeps_the_order_of_the_annotations_and_letterboxes():
    plan = make_plan(training=False)
    samples = all_samples(plan)
    assert [s.index for s in samples] == list(range(NUM_SAMPLES))
    height, width = make_manifest().original_sizes[0]
    corner = geometry.transform_points(samples[0].input_from_original, [[width, height]])[0]
    assert corner.max() == 640
    np.testing.assert_allclose(corner, samples[0].resized_size[::-1])


@pytest.mark.parametrize("perspective", [0.0, 0.4])
def test_the_matrix_is_the_product_of_resize_and_warp(perspective):
    for sample in all_samples(make_plan(perspective=perspective)):
        by_steps = sample.input_from_resized @ geometry.resized_from_region(sample.region_xyxy, sample.resized_size)
        np.testing.assert_allclose(by_steps, sample.input_from_original, atol=1e-9)


@pytest.mark.parametrize("perspective", [0.0, 0.4])
def test_the_region_holds_all_of_the_image_that_the_crop_shows(perspective):
    manifest = make_manifest()
    for sample in all_samples(make_plan(manifest, perspective=perspective)):
        height, width = manifest.original_sizes[sample.index]
        grid = np.stack(np.meshgrid(np.linspace(0, 640, 20), np.linspace(0, 640, 20)), -1).reshape(-1, 2)
        original = geometry.transform_points(np.linalg.inv(sample.input_from_original), grid)
        inside = original[((original >= 0) & (original <= (width, height))).all(axis=1)]
        x0, y0, x1, y1 = sample.region_xyxy
        assert ((inside >= (x0, y0)) & (inside <= (x1, y1))).all()


def test_without_augmentation_the_scale_is_that_of_validation():
    config = PipelineConfig(
        augmentation=AugmentationConfig(
            rotation_degrees=0,
            scale_min=1,
            scale_max=1,
            flip_probability=0,
            brightness=0,
            contrast=0,
            saturation=0,
            hue_degrees=0,
        )
    )
    planner = SamplePlanner(config, training=True, seed=0)
    sample = planner.plan_batch(without_text((1280, 640)), [0], epoch=0)[0]
    np.testing.assert_allclose(sample.input_from_original[:2, :2], np.eye(2) / 2)
    np.testing.assert_allclose(sample.colour_matrix, np.eye(3, 4), atol=1e-6)


def scale_at(matrix: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Returns the derivative, (2, 2), of a matrix's map at a point."""
    steps = np.array([[1e-3, 0], [-1e-3, 0], [0, 1e-3], [0, -1e-3]])
    right, left, below, above = geometry.transform_points(matrix, point + steps)
    return np.stack([right - left, below - above], axis=1) / 2e-3


def test_a_perspective_keeps_scale_and_rotation_at_the_centre_and_all_other_random_numbers():
    manifest, tilts = make_manifest(), []
    for without, sample in zip(
        all_samples(make_plan(manifest)), all_samples(make_plan(manifest, perspective=0.2)), strict=True
    ):
        assert sample.index == without.index
        np.testing.assert_array_equal(sample.colour_matrix, without.colour_matrix)
        height, width = manifest.original_sizes[sample.index]
        centre = np.array([width / 2, height / 2])
        matrix = sample.input_from_original
        np.testing.assert_allclose(scale_at(matrix, centre), without.input_from_original[:2, :2], rtol=1e-5, atol=1e-5)
        corners = np.array([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1]])
        tilts.append(np.abs(corners @ matrix[2] - 1).max())
    assert 0.15 < max(tilts) <= 0.2
    assert min(tilts) < 0.05


def with_far_vertices() -> Manifest:
    """Images of several shapes, each with one polygon inside and one that reaches far beyond the image."""
    sizes = [(300, 900), (900, 300), (50, 2000), (640, 640)]
    inside = [[10, 10], [40, 10], [40, 30], [10, 30]]
    beyond = [[[5, 5], [30, 5], [far, 5000], [5, 40]] for far in (1e4, -3e3, 1e5, 900)]
    return Manifest(
        image_paths=tuple(f"/{i}.jpg" for i in range(4)),
        filenames=tuple(f"{i}.jpg" for i in range(4)),
        sample_ids=np.arange(4),
        stored_sizes=np.array(sizes, np.int32),
        orientations=np.ones(4, np.uint8),
        polygons=PolygonBatch.from_lists([[inside, polygon] for polygon in beyond]),
        num_listed=4,
    )


@pytest.mark.parametrize("make", [make_manifest, with_far_vertices])
@pytest.mark.parametrize("perspective", [0.05, 0.4])
def test_nothing_in_a_crop_and_no_vertex_lies_behind_the_camera(perspective, make):
    manifest = make()
    augmentation = AugmentationConfig(
        perspective=perspective, rotation_degrees=180, scale_min=0.05, scale_max=9, flip_probability=0, crop_size=640
    )
    planner = SamplePlanner(PipelineConfig(image_size=320, augmentation=augmentation), training=True, seed=0)
    for epoch in range(30):
        samples = planner.plan_batch(manifest, np.arange(len(manifest)), epoch)
        polygons = planner.input_polygons(manifest, samples)
        for row, matrix in enumerate(samples.input_from_original):
            height, width = manifest.original_sizes[row]
            assert matrix[2] @ (width / 2, height / 2, 1) == pytest.approx(1)
            image = np.array([[0, 0], [width, 0], [width, height], [0, height]])
            points = np.concatenate([image, *manifest.polygons.polygons_of(row)])
            divisors = np.c_[points, np.ones(len(points))] @ matrix[2]
            assert divisors.min() >= 1 - perspective - 1e-9
            assert divisors.max() <= 1 + perspective + 1e-9
            crop = np.array([[0, 0, 1], [640, 0, 1], [640, 640, 1], [0, 640, 1]])
            back = crop @ np.linalg.inv(matrix)[2]
            assert back.min() >= 1 - 2 * perspective - 1e-9
            assert back.max() <= 1 + 2 * perspective + 1e-9
            assert np.linalg.det(matrix) > 0
            moved = geometry.transform_points(matrix, points[4:])
            np.testing.assert_allclose(np.concatenate(polygons.polygons_of(row)), moved, rtol=1e-5, atol=1e-3)


def test_a_perspective_is_resized_to_what_the_middle_of_the_crop_shows():
    manifest, sides = make_manifest(), []
    for sample in all_samples(make_plan(manifest, perspective=0.4)):
        original_from_input = np.linalg.inv(sample.input_from_original)
        (middle,) = geometry.transform_points(original_from_input, [[320, 320]])
        if ((middle >= 0) & (middle <= manifest.original_sizes[sample.index][::-1])).all():
            sides.append(np.linalg.det(scale_at(np.linalg.inv(sample.input_from_resized), np.array([320, 320]))))
    assert len(sides) > 10
    # The sign tells flipped samples; sizes are rounded to whole pixels.
    np.testing.assert_allclose(np.abs(sides), 1, atol=0.02)


def test_no_region_is_resized_to_more_than_is_predicted_for_the_memory():
    manifest = make_manifest()
    for perspective in (0.05, 0.4):
        config = PipelineConfig(augmentation=AugmentationConfig(perspective=perspective))
        for epoch in range(5):
            for sample in all_samples(make_plan(manifest, perspective=perspective, epoch=epoch)):
                largest = largest_resized(manifest.original_sizes[[sample.index]], config, training=True)[0]
                assert (sample.resized_size <= largest + 1).all()


def test_colour_keeps_grey_grey():
    for sample in all_samples(make_plan()):
        mapped = sample.colour_matrix @ np.array([100.0, 100.0, 100.0, 1.0])
        np.testing.assert_allclose(mapped, mapped[0], rtol=1e-5)


def colours_of(**changes: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns the (3, 3) matrices and (3,) offsets of samples whose colours are changed in one way only."""
    augmentation = AugmentationConfig(**{"brightness": 0, "contrast": 0, "saturation": 0, "hue_degrees": 0} | changes)
    planner = SamplePlanner(PipelineConfig(augmentation=augmentation), training=True, seed=0)
    matrices = planner.plan_batch(make_manifest(), np.arange(NUM_SAMPLES), epoch=0).colour_matrices
    assert len(np.unique(matrices, axis=0)) == NUM_SAMPLES
    return [(matrix[:, :3], matrix[:, 3]) for matrix in matrices]


def test_brightness_multiplies_all_colours():
    gains = []
    for matrix, offset in colours_of(brightness=0.4):
        np.testing.assert_allclose(matrix, matrix[0, 0] * np.eye(3), atol=1e-6)
        assert not offset.any()
        gains.append(matrix[0, 0])
    assert 0.6 <= min(gains) < 0.75
    assert 1.25 < max(gains) <= 1.4


def test_contrast_keeps_mid_grey():
    gains = []
    for matrix, offset in colours_of(contrast=0.4):
        np.testing.assert_allclose(matrix, matrix[0, 0] * np.eye(3), atol=1e-6)
        np.testing.assert_allclose(matrix @ np.full(3, 127.5) + offset, 127.5, rtol=1e-5)
        gains.append(matrix[0, 0])
    assert 0.6 <= min(gains) < 0.75
    assert 1.25 < max(gains) <= 1.4


def test_saturation_keeps_the_luma_and_scales_the_distance_from_grey():
    luma = np.array([0.299, 0.587, 0.114])  # Rec. 601
    for matrix, offset in colours_of(saturation=0.4):
        np.testing.assert_allclose(luma @ matrix, luma, atol=1e-6)
        assert not offset.any()
        scale = matrix[0, 0] - matrix[1, 0]
        assert 0.6 <= scale <= 1.4
        np.testing.assert_allclose(matrix - luma, scale * (np.eye(3) - luma), atol=1e-6)


def test_hue_turns_colours_about_grey():
    cosines = []
    for matrix, offset in colours_of(hue_degrees=40):
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-6)
        assert np.linalg.det(matrix) > 0
        assert not offset.any()
        cosines.append((np.trace(matrix) - 1) / 2)
    assert np.cos(np.radians(40)) <= min(cosines) < np.cos(np.radians(25))


def test_crops_show_whole_text_and_rarely_cut_it():
    manifest = make_manifest()
    num_cut = num_whole = 0
    for epoch in range(5):
        for sample in all_samples(make_plan(manifest, epoch=epoch)):
            moved = manifest.polygons.select([sample.index]).transformed(sample.input_from_original[None])
            boxes = np.array([np.r_[p.min(0), p.max(0)] for p in moved.polygons_of(0)])
            visible = visible_fractions(boxes, [[0, 0]], 640)[0]
            num_cut += ((visible > 0.01) & (visible < 0.99)).sum()
            num_whole += (visible >= 0.99).sum()
    assert num_whole > 5 * num_cut


def test_images_without_text_are_planned():
    planner = SamplePlanner(PipelineConfig(), training=True, seed=0)
    samples = planner.plan_batch(without_text((50, 3000)), [0], epoch=0)
    assert samples.resized_sizes.min() >= 1
