"""The tensor cache over the real pipeline: every tier serves the batches of the uncached loader, and nothing stale."""

import logging
import os
import time

import numpy as np
import pytest
import torch

from dali_pipelines.config import PipelineConfig
from ocr.datasets.image_source import ImageFiles
from ocr.datasets.kept_images import ImageCache, preload_files
from ocr.loaders.engines import Engine
from ocr.loaders.fresh import FreshBatches
from ocr.loaders.loader import BatchLoader
from ocr.targets.maps import make_targets
from ocr.targets.offline import OfflineMaps, maps_file, maps_key, write_maps
from tests.ocr.loaders.batches import (
    BATCH,
    CPU,
    DISK,
    NUM_IMAGES,
    SIZE,
    assert_same,
    cached_loader,
    change_first_image,
    counts,
    images_of,
    in_folder,
    maps_of,
    resident,
    run_epoch,
)

TIERS = {
    "ram": ({}, 10),
    "half in ram": ({"budget_entries": 5}, 4),
    "nothing": ({"budget_entries": 0}, 0),
    "disk": (DISK, 10),
    "half in ram, all on disk": ({"budget_entries": 5, "directory": "cache"}, 10),
    "all in ram and on disk": ({"directory": "cache"}, 10),
    "half on disk": (DISK | {"disk_budget": 600_000}, 5),
}
"""Settings of the cache, and number of hits in each epoch after the first."""


@pytest.mark.parametrize("loader", ["dali", "torch"])
@pytest.mark.parametrize(("settings", "num_hits"), TIERS.values(), ids=TIERS.keys())
def test_every_tier_serves_the_batches_of_the_uncached_loader(drawn, tmp_path, settings, num_hits, loader):
    expected = run_epoch(cached_loader(drawn, cached=False, loader=loader))
    cached = cached_loader(drawn, loader=loader, **in_folder(settings, tmp_path))
    first = run_epoch(cached)
    assert torch.equal(images_of(first), images_of(expected).half())
    for name in ("shrink_map", "shrink_mask", "thresh_mask"):
        assert torch.equal(maps_of(first, name), maps_of(expected, name))
    assert (maps_of(first, "thresh_map") - maps_of(expected, "thresh_map")).abs().max() < 2.5e-4
    assert counts(cached) == (0, NUM_IMAGES)
    for epoch in (1, 2):
        assert_same(run_epoch(cached, epoch), first)
        assert counts(cached) == (num_hits, NUM_IMAGES - num_hits)
    cached.close()


@pytest.mark.parametrize(
    ("settings", "num_read"), [({}, 0), ({"budget_entries": 0}, 0), (DISK, NUM_IMAGES)], ids=["ram", "nothing", "disk"]
)
def test_only_the_keys_of_a_disk_tier_cost_a_read_of_each_file(drawn, tmp_path, monkeypatch, settings, num_read):
    read = []
    monkeypatch.setattr(ImageFiles, "digest", lambda images, index: read.append(index) or bytes(32))
    run_epoch(cached_loader(drawn, **in_folder(settings, tmp_path)))
    assert len(read) == num_read


@pytest.mark.parametrize("settings", [{}, {"budget_entries": 0}, DISK], ids=["ram", "nothing", "disk"])
def test_an_iteration_ends_with_its_loader_and_with_a_later_iteration(drawn, tmp_path, settings):
    cached = cached_loader(drawn, **in_folder(settings, tmp_path))
    expected = images_of(run_epoch(cached))
    abandoned, closed = iter(cached), iter(cached)
    next(abandoned)
    next(closed)
    assert list(abandoned) == []
    closed.close()
    assert torch.equal(images_of(run_epoch(cached)), expected)
    batches = iter(cached)
    next(batches)
    cached.close()
    assert list(batches) == []


def test_from_the_second_epoch_a_batch_is_a_view_of_resident_memory(drawn):
    cached = cached_loader(drawn)
    run_epoch(cached)
    memory = resident(cached, "images")
    for step, batch in enumerate(run_epoch(cached, 1)):
        assert batch.images.data_ptr() == memory[step * BATCH].data_ptr()
        assert batch.images.dtype == torch.float16


def test_uint8_keeps_the_exact_pixels_in_half_the_memory(drawn):
    expected = run_epoch(cached_loader(drawn, cached=False))
    cached = cached_loader(drawn, dtype="uint8")
    first = run_epoch(cached)
    assert images_of(first).dtype == torch.float32
    torch.testing.assert_close(images_of(first), images_of(expected), atol=1e-5, rtol=0)
    assert_same(run_epoch(cached, 1), first)
    assert 2 * resident(cached, "images").nbytes == resident(cached_loader(drawn), "images").nbytes


@pytest.mark.parametrize("settings", [{}, DISK], ids=["ram", "disk"])
def test_ranks_hold_equal_shares_and_serve_each_sample_once(drawn, tmp_path, settings):
    whole = images_of(run_epoch(cached_loader(drawn)))
    # 10 images on 4 ranks: two of the ranks repeat an image as padding
    ranks = [cached_loader(drawn, rank=rank, num_ranks=4, **in_folder(settings, tmp_path)) for rank in range(4)]
    for epoch in (0, 1):
        served = {}
        for loader in ranks:
            for batch in run_epoch(loader, epoch):
                for image, sample, mask in zip(batch.images, batch.samples, batch.targets.shrink_mask, strict=True):
                    assert torch.equal(image, whole[sample.index])
                    if sample.is_padding:
                        assert not mask.any()
                    else:
                        assert mask.any()
                        assert served.setdefault(sample.index, loader) is loader
        assert sorted(served) == list(range(NUM_IMAGES))
    assert [loader.cache.store.plan.num_entries for loader in ranks] == [3, 3, 3, 3]


def test_an_unchanged_second_run_finds_everything_on_disk(drawn, tmp_path):
    first = cached_loader(drawn, directory=str(tmp_path / "cache"))
    expected = run_epoch(first)
    second = cached_loader(drawn, directory=str(tmp_path / "cache"))
    assert_same(run_epoch(second), expected)
    assert counts(second) == (NUM_IMAGES, 0)


@pytest.mark.parametrize("budget_entries", [0, None], ids=["disk", "disk into ram"])
def test_damaged_files_are_named_recomputed_and_replaced(drawn, tmp_path, caplog, budget_entries):
    settings = {"directory": str(tmp_path), "budget_entries": budget_entries}
    expected = run_epoch(cached_loader(drawn, **settings))
    for number, path in enumerate(sorted(tmp_path.iterdir())):
        if number % 3 == 0:
            os.truncate(path, 1000 * number)
        elif number % 3 == 1:
            path.write_bytes(bytes(path.stat().st_size))
    again = cached_loader(drawn, **settings)
    with caplog.at_level(logging.WARNING):
        assert_same(run_epoch(again), expected)
    assert counts(again) == (3, 7)
    warnings = [record.message for record in caplog.records if record.name == "ocr.loaders.cached"]
    assert sum("recomputing the entry" in warning for warning in warnings) == 7
    assert all(".entry" in warning and "train_0000" in warning for warning in warnings)
    third = cached_loader(drawn, **settings)
    assert_same(run_epoch(third), expected)
    assert counts(third) == (NUM_IMAGES, 0)


def test_entries_that_vanish_during_the_run_are_recomputed(drawn, tmp_path):
    cached = cached_loader(drawn, directory=str(tmp_path / "cache"), budget_entries=0)
    expected = run_epoch(cached)
    cached.set_epoch(1)
    batches = []
    for batch in cached:
        batches.append(batch)
        (tmp_path / "cache").rename(tmp_path / f"gone_{len(batches)}")  # at once: entries are being written into it
        (tmp_path / "cache").mkdir()
    assert_same(batches, expected)


def test_maps_from_files_leave_ram_once_their_entries_are_in_it(drawn, tmp_path):
    cached = cached_loader(drawn, budget_entries=5)
    dataset = cached.dataset
    for index, name in enumerate(dataset.manifest.filenames):
        polygons = dataset.planner.input_polygons(dataset.manifest, dataset.planned([index]))
        targets, key = (
            make_targets(polygons, (SIZE, SIZE), dataset.targets),
            maps_key(polygons, (SIZE, SIZE), dataset.targets),
        )
        write_maps(maps_file(tmp_path, name), targets, key)
    dataset.offline_maps = OfflineMaps(tmp_path, dataset.manifest.filenames, dataset.targets)
    dataset.offline_maps.budget = NUM_IMAGES * dataset.offline_maps.bytes_of_one(SIZE)
    run_epoch(cached)
    assert (dataset.offline_maps.hits, dataset.offline_maps.num_kept) == (NUM_IMAGES, NUM_IMAGES - BATCH)
    assert cached.cache_bytes["ram"] == cached.cache.store.num_bytes["ram"] + dataset.offline_maps.num_bytes


def test_an_abandoned_epoch_keeps_its_entries(drawn):
    cached = cached_loader(drawn)
    batches = iter(cached)
    next(batches)
    batches.close()
    assert_same(run_epoch(cached, 1), run_epoch(cached_loader(drawn)))
    assert counts(cached) == (BATCH, NUM_IMAGES - BATCH)


def test_two_runs_share_a_folder_at_the_same_time(drawn, tmp_path):
    runs = [cached_loader(drawn, directory=str(tmp_path), budget_entries=0) for _ in range(2)]
    expected = run_epoch(cached_loader(drawn))
    for epoch in range(2):
        for run in runs:
            run.set_epoch(epoch)
        pairs = list(zip(*runs, strict=True))
        for run_batches in zip(*pairs, strict=True):
            assert_same(list(run_batches), expected)
    assert len(list(tmp_path.iterdir())) == NUM_IMAGES


def test_a_file_that_fails_is_left_out_each_epoch_and_never_reaches_the_disk(copied, tmp_path):
    path = sorted((copied / "images" / "train").iterdir())[5]
    cached = cached_loader(copied, directory=str(tmp_path / "cache"))
    path.write_bytes(path.read_bytes()[:2000])  # after the audit
    for epoch in (0, 1):
        batches = run_epoch(cached, epoch)
        flags = [sample.is_padding for batch in batches for sample in batch.samples]
        assert flags == [index == 5 for index in range(NUM_IMAGES)]
        assert not batches[1].targets.shrink_mask[1].any()
        assert list(cached.failures) == [str(path)]
    assert len(list((tmp_path / "cache").iterdir())) == NUM_IMAGES - 1


@pytest.mark.parametrize("settings", [{}, {"directory": "cache"}], ids=["ram", "ram and disk"])
def test_a_damaged_file_costs_one_miss_and_counts_again_once_it_is_whole(copied, tmp_path, monkeypatch, settings):
    expected = run_epoch(cached_loader(copied))
    path = sorted((copied / "images" / "train").iterdir())[5]
    whole = path.read_bytes()
    cached = cached_loader(copied, **in_folder(settings, tmp_path))
    path.write_bytes(whole[:2000])  # after the audit
    released = []
    monkeypatch.setattr(FreshBatches, "release", lambda fresh: released.append(fresh))
    for epoch in range(4):
        if epoch == 3:
            os.utime(path)  # another signature of the same content
        batches = run_epoch(cached, epoch)
        assert [sample.index for batch in batches for sample in batch.samples if sample.has_failed] == [5]
        assert list(cached.failures) == [str(path)]
        if epoch < 3:
            assert counts(cached) == ((NUM_IMAGES, 0) if epoch else (0, NUM_IMAGES))
            assert len(released) == 1
    path.write_bytes(whole)
    assert_same(run_epoch(cached, 4), expected)
    run_epoch(cached, 5)
    assert counts(cached) == (NUM_IMAGES, 0)


class AwayForAnEpoch(ImageCache):
    """Cannot read image 5 until the test says so. Its file has not changed then."""

    is_away = True

    def encoded(self, index: int) -> np.ndarray | None:
        if index == 5 and self.is_away:
            raise OSError("the share is away")
        return super().encoded(index)


@pytest.mark.parametrize("budget_entries", [0, None], ids=["nothing", "ram"])
def test_a_file_that_can_be_read_again_counts_again_and_is_kept(drawn, budget_entries):
    expected = run_epoch(cached_loader(drawn))
    whole = cached_loader(drawn, budget_entries=budget_entries)
    dataset, tiers = whole.dataset, whole.cache.store.plan
    kept = AwayForAnEpoch(dataset.manifest.image_paths, preload_files(dataset.manifest, 10**9, range(NUM_IMAGES)))
    dataset.kept_images = kept
    cached = BatchLoader(dataset, Engine("dali", CPU), BATCH, with_targets=True, tiers=tiers)
    (failed,) = [sample.index for batch in run_epoch(cached) for sample in batch.samples if sample.has_failed]
    assert failed == 5
    kept.is_away = False
    assert_same(run_epoch(cached, 1), expected)
    run_epoch(cached, 2)
    assert counts(cached) == ((NUM_IMAGES, 0) if budget_entries is None else (0, NUM_IMAGES))


def test_real_receipts_and_scenes_are_the_same_from_the_cache(sroie, icdar15, tmp_path):
    for root in (sroie, icdar15):
        settings = {"split": "val", "pipeline": PipelineConfig(image_size=320)}
        cached = cached_loader(root, **settings, directory=str(tmp_path), budget_entries=12)
        first = run_epoch(cached)
        expected = run_epoch(cached_loader(root, cached=False, **settings))
        assert torch.equal(images_of(first), images_of(expected).half())
        assert_same(run_epoch(cached, 1), first)
        assert counts(cached) == (len(cached.dataset), 0)


def test_a_file_that_fails_as_padding_never_reaches_the_disk_either(copied, tmp_path):
    """10 images on 4 ranks: rank 2 repeats image 0 as padding."""
    path = sorted((copied / "images" / "train").iterdir())[0]
    ranks = [cached_loader(copied, rank=rank, num_ranks=4, directory=str(tmp_path / "cache")) for rank in range(4)]
    path.write_bytes(path.read_bytes()[:2000])  # after the audit
    for loader in ranks:
        run_epoch(loader)
    assert len(list((tmp_path / "cache").iterdir())) == NUM_IMAGES - 1


def test_an_abandoned_epoch_is_finished_before_the_next(copied, tmp_path, monkeypatch):
    """Slow reads and writes of the abandoned epoch still run when the next one begins, with a changed image."""
    cached = cached_loader(copied, budget_entries=0, directory=str(tmp_path / "cache"))
    for method in ("read", "write"):
        original = getattr(cached.cache.store.files, method)

        def slow(*arguments, original=original):
            time.sleep(0.05)
            return original(*arguments)

        monkeypatch.setattr(cached.cache.store.files, method, slow)
    for epoch in range(3):
        cached.set_epoch(epoch)
        batches = iter(cached)
        next(batches)
        batches.close()
        change_first_image(copied)
    assert_same(run_epoch(cached, 3), run_epoch(cached_loader(copied)))


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("settings", "expected_bytes"),
    [
        ({}, {"gpu": 10, "ram": 0}),
        ({"device_budget": 0}, {"gpu": 0, "ram": 10}),
        ({"device_budget": 5 * 118_784}, {"gpu": 4, "ram": 6}),
        ({"device_budget": 0, "budget_entries": 0, "directory": "cache"}, {"gpu": 0, "ram": 0}),
    ],
    ids=["gpu", "pinned ram", "both", "disk"],
)
def test_every_tier_of_a_gpu_serves_equal_batches_in_the_predicted_bytes(drawn, tmp_path, settings, expected_bytes):
    device = torch.device("cuda", 0)
    cached = cached_loader(drawn, device=device, **in_folder(settings, tmp_path))
    store = cached.cache.store
    assert {tier: store.num_bytes[tier] for tier in ("gpu", "ram")} == {
        tier: count * store.layout.num_bytes for tier, count in expected_bytes.items()
    }
    first = [batch.images.clone() for batch in run_epoch(cached)]
    for epoch in (1, 2):
        for batch, images in zip(run_epoch(cached, epoch), first, strict=True):
            assert batch.images.is_cuda
            assert torch.equal(batch.images, images)
        assert counts(cached) == (NUM_IMAGES, 0)
