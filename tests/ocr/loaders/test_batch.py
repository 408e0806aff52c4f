from pathlib import Path

import numpy as np
import torch

from ocr.loaders.engines import Engine
from ocr.loaders.loader import BatchLoader
from tests.ocr.loaders.batches import CPU, uncached_dataset


def batches_of(root: Path, *, training: bool, **share) -> list:
    return list(BatchLoader(uncached_dataset(root, training=training), Engine("torch", CPU), batch_size=2, **share))


def test_an_evaluation_batch_has_polygons_in_the_input_frame_and_no_targets(drawn):
    batch = batches_of(drawn, training=False)[0]
    assert batch.targets is None
    height, width = batch.samples[0].resized_size
    vertices = np.concatenate(batch.polygons_input.polygons_of(0))
    assert vertices.min() >= 0
    assert (vertices <= (width, height)).all()


def test_padded_samples_have_empty_masks(drawn):
    # 10 images on 3 ranks: 4 samples per rank, and the last sample of this rank is padding.
    *_, last = batches_of(drawn, training=True, rank=2, num_ranks=3)
    assert [sample.is_padding for sample in last.samples] == [False, True]
    assert last.targets.shrink_mask[1].max() == 0
    assert last.targets.thresh_mask[1].max() == 0
    assert last.targets.shrink_mask[0].max() == 1


def test_polygons_of_the_manifest_are_not_modified(drawn):
    batch = batches_of(drawn, training=True)[0]
    before = batch.dataset.manifest.polygons.vertices.copy()
    assert batch.polygons_input is batch.polygons_input
    np.testing.assert_array_equal(batch.dataset.manifest.polygons.vertices, before)


def test_a_batch_stays_on_its_device(drawn):
    batch = batches_of(drawn, training=False)[0]
    assert batch.to(torch.device("cpu")) is batch
