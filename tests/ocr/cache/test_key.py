import os
from dataclasses import replace

import numpy as np
import pytest

from dali_pipelines.config import AugmentationConfig, PipelineConfig
from ocr.cache import key
from ocr.cache.entry import EntryLayout
from ocr.cache.key import ImageDigests, recipe_digest, sample_digest
from ocr.datasets.image_source import ImageFiles
from ocr.datasets.manifest import Manifest
from ocr.datasets.plan import letterbox
from ocr.polygons import PolygonBatch
from ocr.targets.config import TargetConfig

LAYOUT = EntryLayout(64, 32, "float16")
BOX = np.array([[1, 1], [9, 1], [9, 5], [1, 5]], np.float32)


def make_recipe(pipeline=None, targets=None, layout=LAYOUT, **other):
    return recipe_digest(pipeline or PipelineConfig(), targets or TargetConfig(), layout, **other)


@pytest.mark.parametrize(
    "changed",
    [
        {"pipeline": PipelineConfig(image_size=608)},
        {"pipeline": PipelineConfig(mean=(123.0, 116.28, 103.53))},
        {"pipeline": PipelineConfig(std=(58.395, 57.0, 57.375))},
        {"pipeline": PipelineConfig(jpeg_fancy_upsampling=False)},
        {"pipeline": PipelineConfig(scaled_decode=True)},
        {"targets": TargetConfig(shrink_ratio=0.5)},
        {"targets": TargetConfig(map_stride=2)},
        {"layout": EntryLayout(64, 32, "uint8")},
        {"layout": EntryLayout(64, None, "float16")},
        {"loader": "torch"},
    ],
)
def test_whatever_can_change_an_entry_changes_the_recipe(changed):
    assert make_recipe(**changed) != make_recipe()


def test_threads_layout_and_augmentation_do_not_change_the_recipe():
    other = PipelineConfig(
        num_threads=3,
        prefetch_queue_depth=5,
        output_layout="HWC",
        preallocate_decoder=True,
        augmentation=AugmentationConfig(rotation_degrees=1),
    )
    assert make_recipe(other) == make_recipe()


def test_another_library_or_code_changes_the_recipe(monkeypatch):
    before = make_recipe()
    monkeypatch.setattr(key, "package_versions", lambda: {"nvidia-dali-cuda120": "0.0"})
    with_other_dali = make_recipe()
    monkeypatch.setattr(key, "code_digest", lambda: "other")
    assert len({before, with_other_dali, make_recipe()}) == 3


def make_manifest(polygons, ignore=None, size=(10, 20), orientation=1) -> Manifest:
    return Manifest(
        image_paths=("a.jpg",),
        filenames=("a.jpg",),
        sample_ids=np.arange(1),
        stored_sizes=np.array([size], np.int32),
        orientations=np.array([orientation], np.uint8),
        polygons=PolygonBatch.from_lists([polygons], ignore),
        num_listed=1,
    )


def test_each_part_of_an_annotation_changes_the_digest():
    sample = letterbox([0], [(10, 20)], 64)
    moved = BOX.copy()
    moved[0, 0] += 0.01
    manifests = [
        make_manifest([BOX]),
        make_manifest([moved]),
        make_manifest([BOX], [[True]]),
        make_manifest([BOX, BOX]),
        make_manifest([np.concatenate([BOX, BOX])]),
        make_manifest([]),
        make_manifest([BOX], size=(11, 20)),
        make_manifest([BOX], orientation=3),
    ]
    digests = [sample_digest(manifest, sample, 0) for manifest in manifests]
    digests.append(sample_digest(manifests[0], replace(sample, resized_sizes=np.array([(31, 64)])), 0))
    digests.append(sample_digest(manifests[0], replace(sample, input_from_original=np.eye(3)[None]), 0))
    assert len(set(digests)) == len(digests)
    assert sample_digest(manifests[0], replace(sample, is_padding=np.array([True])), 0) == digests[0]


@pytest.mark.parametrize("by_content", [True, False])
def test_a_change_that_keeps_size_and_mtime_is_noticed(by_content, tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"old bytes")
    digests = ImageDigests(ImageFiles([str(path)]), [0], by_content=by_content)
    digests.refresh()
    before, status = digests.digest(0), path.stat()
    assert digests.is_unchanged(0)
    path.write_bytes(b"new bytes")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert not digests.is_unchanged(0)
    digests.refresh()
    assert digests.is_unchanged(0)
    assert digests.digest(0) != before


@pytest.mark.parametrize("by_content", [True, False])
def test_only_the_first_refresh_and_changed_files_need_new_keys(by_content, tmp_path):
    paths = [tmp_path / f"{name}.jpg" for name in "abc"]
    for path in paths[:2]:
        path.write_bytes(b"bytes")
    digests = ImageDigests(ImageFiles([str(path) for path in paths]), [0, 1, 2], by_content=by_content)
    assert digests.refresh() == [0, 1, 2]
    assert digests.refresh() == []
    paths[1].unlink()
    paths[2].write_bytes(b"late")
    assert digests.refresh() == [1, 2]
    assert (digests.digest(1), digests.signature(1)) == (None, None)
    assert digests.digest(2) is not None


@pytest.mark.parametrize("by_content", [True, False])
def test_a_missing_file_has_no_digest(by_content, tmp_path):
    digests = ImageDigests(ImageFiles([str(tmp_path / "none.jpg")]), [0], by_content=by_content)
    digests.refresh()
    assert digests.digest(0) is None
