"""The checks of a data set against the settings of a run: each warning names what was found and the setting to paste."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dali_pipelines.config import PipelineConfig
from ocr.datasets.audit import load_manifest
from ocr.datasets.audit_report import AuditReport, Finding
from ocr.datasets.data_checks import CheckSettings, DataCheck, Measures, check_data, check_splits, shared_images
from ocr.datasets.manifest import Manifest
from ocr.datasets.schemas import DatasetConfig
from ocr.polygons import PolygonBatch
from ocr.targets.config import TargetConfig
from ocr.targets.outline import TEXT, measure_outlines, short_sides


def rectangle(width: float, height: float, x: float = 0, y: float = 0) -> list[list[float]]:
    return [[x, y], [x + width, y], [x + width, y + height], [x, y + height]]


def manifest_of(words: list[list[list[list[float]]]], size=(1000, 1000), orientations=None, ignore=None) -> Manifest:
    """Returns the manifest of images of one stored size (H, W), with these polygons."""
    num = len(words)
    names = tuple(f"{number}.jpg" for number in range(num))
    return Manifest(
        image_paths=names,
        filenames=names,
        sample_ids=np.arange(num),
        stored_sizes=np.tile(np.int32(size), (num, 1)),
        orientations=np.ones(num, np.uint8) if orientations is None else np.uint8(orientations),
        polygons=PolygonBatch.from_lists(words, ignore),
        num_listed=num,
    )


def settings(
    training: bool = True,
    annotated: bool = True,
    before_training: bool = True,
    keeps_pixels: bool = False,
    **pipeline,
) -> CheckSettings:
    return CheckSettings(
        PipelineConfig(**pipeline),
        8.0,
        1000,
        training=training,
        annotated=annotated,
        before_training=before_training,
        keeps_pixels=keeps_pixels,
    )


def checked(manifest: Manifest, report: AuditReport | None = None, **values) -> DataCheck:
    return check_data(manifest, report, settings(**values))


def split_of(root: Path, split: str) -> Manifest:
    places = {"image_path": str(root / "images" / split), "annotation_path": str(root / "jsons" / f"{split}.json")}
    return load_manifest(DatasetConfig(**places, audit_memo="off"), max_megapixels=100)[0]


def test_good_words_bring_no_warning_and_the_table_says_so():
    found = checked(manifest_of([[rectangle(60, 30)] * 3] * 4))
    assert found.warnings == ()
    assert "median 19.2 px, 5th percentile 19.2 px; 0.0 % are below targets.min_side (8 px)" in found.table().plain
    assert found.table().plain.endswith("no problems found")


def test_small_words_name_the_size_at_which_95_percent_are_learned():
    words = [rectangle(60, 10)] * 94 + [rectangle(60, 5)] * 6
    (warning,) = checked(manifest_of([words])).warnings
    assert warning.startswith("100% of the words are below 8 px at pipeline.image_size=640")
    assert "pipeline.image_size=1600 (more than the images' own 1,000 px) keeps 95 %" in warning
    assert "pipeline.image_size=800 keeps 95 %" in checked(manifest_of([words[:94]])).warnings[0]
    assert checked(manifest_of([words[:94]]), image_size=800).warnings == ()


@pytest.mark.parametrize("image_size", [320, 640, 1248])
def test_the_share_of_small_words_is_that_of_the_targets(image_size):
    generator = np.random.default_rng(0)
    words = [rectangle(*generator.uniform(3, 60, 2)) for _ in range(500)]
    polygons = PolygonBatch.from_lists([words]).transformed([np.diag([image_size / 1000, image_size / 1000, 1])])
    roles = measure_outlines(polygons, (image_size, image_size), TargetConfig()).role
    heights = Measures.of(manifest_of([words])).heights_of_longest * image_size
    assert (heights < 8).sum() == (roles != TEXT).sum()
    np.testing.assert_allclose(short_sides(polygons), heights, rtol=1e-5)


def test_a_split_without_text_and_one_of_dont_care_regions_are_named():
    assert "not one word" in checked(manifest_of([[], []])).warnings[0]
    hidden = manifest_of([[rectangle(60, 30)] * 2], ignore=[[True, True]])
    assert "all 2 words are don't-care regions" in checked(hidden).warnings[0]
    assert checked(manifest_of([[], []]), annotated=False).warnings == ()


def test_crops_of_words_are_named():
    (warning,) = checked(manifest_of([[rectangle(950, 900)]] * 3 + [[rectangle(90, 60)]])).warnings
    assert warning.startswith("in 3 of 4 images a word covers more than 80%")


def test_more_words_than_candidates_name_the_image_and_the_number_to_paste():
    page = [rectangle(20, 15, x, y) for x in range(0, 900, 25) for y in range(0, 940, 20)]
    (warning,) = checked(manifest_of([page[:1000], page[:1001]])).warnings
    assert "1 image has more words than the 1,000 that are found in an image" in warning
    assert "(1.jpg has 1,001); postprocess.max_candidates=1300" in warning


def test_words_that_stand_on_end_only_where_exif_turns_are_named():
    turned, others = [rectangle(30, 90)] * 20, [rectangle(90, 30)] * 20
    found = checked(manifest_of([turned, others], orientations=[6, 1])).warnings
    assert "in the 1 images that EXIF turns, 100% of the words are taller than wide" in found[0]
    assert "annotation_frame=upright" in found[0]
    assert checked(manifest_of([others, others], orientations=[6, 1])).warnings == ()


def test_images_of_the_other_frame_that_were_skipped_are_named():
    finding = Finding("other_frame", "a", "a.jpg", None, "x", "y")
    report = AuditReport(2, 1, 1, 0, 0, 0, (finding,))
    (warning,) = checked(manifest_of([[rectangle(90, 60)]]), report).warnings
    assert "1 image" in warning
    assert "annotation_frame=upright" in warning


def test_images_far_larger_than_needed_say_what_smaller_ones_would_save():
    large = manifest_of([[rectangle(600, 300)]], size=(6000, 6000))
    (warning,) = checked(large).warnings
    assert "36.0 megapixels" in warning
    assert "at most 1,920 px" in warning
    assert "90% fewer pixels" in warning
    assert checked(large, scaled_decode=True).warnings == ()
    assert "1,280 px" in checked(large, training=False).warnings[0]
    assert warning.index("pipeline.scaled_decode=true") < warning.index("copies")
    for scaled_decode in (False, True):  # it has no effect on decoded images that are kept
        (warning,) = checked(large, keeps_pixels=True, scaled_decode=scaled_decode).warnings
        assert "scaled_decode" not in warning
        assert "copies" in warning


def test_smaller_images_are_advised_before_training_only():
    large = manifest_of([[rectangle(600, 300)]], size=(6000, 6000))
    assert checked(large, training=False, before_training=False).warnings == ()
    assert checked(large, training=False, before_training=False, annotated=False).warnings == ()


def test_smaller_images_are_not_advised_while_words_are_too_small():
    (warning,) = checked(manifest_of([[rectangle(100, 50)]], size=(6000, 6000))).warnings
    assert "pipeline.image_size=960 keeps 95 %" in warning
    (warning,) = checked(manifest_of([[rectangle(100, 50)]], size=(6000, 6000)), image_size=960).warnings
    assert "pipeline.scaled_decode=true" in warning


def test_advice_names_the_key_of_the_command():
    (warning,) = checked(manifest_of([[rectangle(60, 10)]]), training=False, before_training=False).warnings
    assert "at image_size=640" in warning
    assert "; image_size=800 keeps 95 %" in warning


def test_images_in_both_splits_are_found_by_content_not_by_name(drawn, tmp_path):
    train, val = split_of(drawn, "train"), split_of(drawn, "val")
    assert shared_images(train, val) == []
    assert check_splits(train, val) == []
    copies = [tmp_path / f"copy_{number}.jpg" for number in range(len(val))]
    for number, copy in enumerate(copies):  # the same number of bytes, but only the first has the same content
        content = Path(train.image_paths[number]).read_bytes()
        copy.write_bytes(content if number == 0 else content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    sizes = train.stored_sizes[: len(val)]
    other = replace(val, image_paths=tuple(map(str, copies)), stored_sizes=sizes)
    assert shared_images(train, other) == [(0, 0)]
    assert f"1 of {len(val)} validation images are in the training split too" in check_splits(train, other)[0]
    assert len(shared_images(train, train)) == len(train)


def test_lines_in_one_split_and_words_in_the_other_are_named():
    lines, words = manifest_of([[rectangle(600, 40)] * 3]), manifest_of([[rectangle(90, 40)] * 3], size=(1001, 1000))
    (line,) = check_splits(lines, words)
    assert "training regions look like text lines (one in ten longer than 15.0" in line


def test_the_drawn_set_brings_no_warning_at_a_size_that_suits_it(drawn):
    for split in ("train", "val"):
        assert checked(split_of(drawn, split), training=split == "train").warnings == ()


def test_real_receipts_bring_only_the_warning_that_is_true(sroie):
    train, val = split_of(sroie, "train"), split_of(sroie, "val")
    assert check_splits(train, val) == []
    (warning,) = checked(train).warnings
    assert "26% of the words are below 8 px" in warning
    assert "pipeline.image_size=960 keeps 95 %" in warning
    assert checked(train, image_size=960).warnings == ()
    assert "(text lines)" in checked(train).table().plain


def test_a_part_of_many_images_is_measured(drawn):
    manifest = split_of(drawn, "train")
    part = Measures.of(manifest, max_images=4)
    np.testing.assert_array_equal(part.sizes, manifest.original_sizes[[0, 3, 6, 9]])
