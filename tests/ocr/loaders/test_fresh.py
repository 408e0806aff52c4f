import gc
import multiprocessing
from pathlib import Path

import pytest
import torch

from ocr.cache_statistics import CacheSizes, CacheStatistics
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.kept_images import keep_images
from ocr.datasets.plan import EpochPlan
from ocr.datasets.schemas import CacheConfig
from ocr.loaders.engines import Engine
from ocr.loaders.fresh import FreshBatches
from tests.ocr.loaders.batches import CPU, assert_same, uncached_dataset


@pytest.fixture
def dataset(drawn: Path) -> ValidatedOCRDataset:
    return uncached_dataset(drawn, training=True)


def make_fresh(dataset: ValidatedOCRDataset, name: str = "dali") -> FreshBatches:
    statistics = CacheStatistics(None, CacheSizes)
    return FreshBatches(dataset, Engine(name, CPU), 2, with_targets=True, levels=False, statistics=statistics)


def plan_of(dataset: ValidatedOCRDataset, **share) -> EpochPlan:
    return EpochPlan(dataset.manifest, dataset.planner, epoch=0, batch_size=2, **share)


def test_padded_samples_keep_their_masks_only_for_the_cache(dataset):
    fresh, plan = make_fresh(dataset), plan_of(dataset, rank=2, num_ranks=3)
    *_, served = fresh.batches(plan)
    *_, made = fresh.make(plan)
    assert [sample.is_padding for sample in made.samples] == [False, True]
    assert made.targets.shrink_mask[1].max() == 1
    assert served.targets.shrink_mask[1].max() == 0
    assert torch.equal(served.images, made.images)


@pytest.mark.parametrize("name", ["dali", "torch"])
def test_single_samples_are_made_in_the_middle_of_a_plan(dataset, name):
    fresh, plan = make_fresh(dataset, name), plan_of(dataset)
    expected = list(fresh.batches(plan))
    found, now = [], []
    for batch in fresh.batches(plan):
        found.append(batch)
        now.append(fresh.make_now(batch.samples))
    assert_same(found, expected)
    assert_same(now, expected)
    fresh.close()


def test_closing_ends_the_workers_of_single_samples_too(dataset):
    before = set(multiprocessing.active_children())
    statistics = CacheStatistics(None, CacheSizes)
    fresh = FreshBatches(dataset, Engine("torch", CPU, 1), 2, with_targets=False, levels=False, statistics=statistics)
    plan = plan_of(dataset)
    next(fresh.batches(plan))
    fresh.make_now(plan.batch(0))
    started = set(multiprocessing.active_children()) - before
    assert len(started) == 2
    fresh.close()
    gc.collect()
    for process in started:
        process.join(timeout=10)
        assert not process.is_alive()


@pytest.mark.parametrize("name", ["dali", "torch"])
def test_images_in_memory_before_the_epoch_are_hits(dataset, name):
    config = dataset.config.model_copy(update={"cache_config": CacheConfig(cache_decoded_images=True)})
    dataset.kept_images = keep_images(config, dataset.manifest, device=CPU, ram_budget=10**9, device_budget=0)
    statistics = CacheStatistics(None, CacheSizes)
    fresh = FreshBatches(dataset, Engine(name, CPU), 2, with_targets=False, levels=False, statistics=statistics)
    counts = []
    for _ in range(2):
        statistics.start_epoch()
        list(fresh.batches(plan_of(dataset)))
        counts.append((statistics.epoch_hits, statistics.epoch_misses))
    assert counts == [(0, 10), (10, 0)]


def test_after_a_release_images_are_made_from_their_files(dataset):
    config = dataset.config.model_copy(update={"preload_images": True})
    dataset.kept_images = keep_images(config, dataset.manifest, device=CPU, ram_budget=10**9, device_budget=0)
    fresh, plan = make_fresh(dataset), plan_of(dataset)
    expected = list(fresh.batches(plan))
    fresh.release()
    assert dataset.kept_images.num_images == 0
    assert_same(list(fresh.batches(plan)), expected)
