"""The tensor cache over the real pipeline: every tier serves what the uncached loader makes, and nothing old."""

import json
import logging
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from dali_pipelines.config import PipelineConfig
from ocr.cache import key
from ocr.cache.budget import FreeMemory, plan_tiers
from ocr.cache.entry import entry_layout
from ocr.cache.files import HEADER, MAGIC, _checksum
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.kept_images import keep_images
from ocr.datasets.plan import SamplePlanner
from ocr.datasets.schemas import CacheConfig, DatasetConfig
from ocr.errors import CacheError
from ocr.loaders.batch import Batch
from ocr.loaders.engines import Engine
from ocr.loaders.loader import BatchLoader
from ocr.synthetic.config import SyntheticConfig
from ocr.synthetic.data_set import draw_data_set
from ocr.targets.config import TargetConfig

CPU = torch.device("cpu")
SIZE = 128
BATCH = 4
NUM_IMAGES = 10


@pytest.fixture(scope="module")
def drawn_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "synthetic"
    return draw_data_set(SyntheticConfig(num_train=1, num_val=NUM_IMAGES), root, num_workers=1)


@pytest.fixture
def drawn_set(drawn_once: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(drawn_once, tmp_path / "set"))


def make_loader(
    root: Path,
    *,
    budget_entries: int | None = None,
    cached: bool = True,
    rank: int = 0,
    num_ranks: int = 1,
    loader: str = "dali",
    num_workers: int = 0,
    device: torch.device = CPU,
    pipeline: PipelineConfig | None = None,
    targets: TargetConfig | None = None,
    **cache,
) -> BatchLoader:
    config = DatasetConfig(
        image_path=str(root / "images" / "val"),
        annotation_path=str(root / "jsons" / "val.json"),
        cache_config=CacheConfig(cache_transformed_tensors=True, **cache),
    )
    planner = SamplePlanner(pipeline or PipelineConfig(image_size=SIZE), training=False, seed=0)
    dataset = ValidatedOCRDataset(config, planner, targets or TargetConfig(map_stride=2))
    dataset.keep_images(keep_images(config, dataset.manifest, device=CPU, ram_budget=10**9, device_budget=0))
    layout = entry_layout(dataset, with_targets=True)
    ram = 10**9 if budget_entries is None else 2 * budget_entries * layout.num_bytes
    num_entries = -(-len(dataset) // num_ranks)
    tiers = plan_tiers(layout, num_entries, BATCH, config.cache_config, device, FreeMemory(gpu=10**9, ram=ram))
    return BatchLoader(
        dataset,
        Engine(loader, device, num_workers),
        BATCH,
        rank=rank,
        num_ranks=num_ranks,
        with_targets=True,
        tiers=tiers if cached else None,
    )


def run_epoch(loader: BatchLoader, epoch: int = 0) -> list[Batch]:
    loader.set_epoch(epoch)
    loader.reset_statistics()
    return list(loader)


def images_of(batches: list[Batch]) -> torch.Tensor:
    return torch.cat([batch.images for batch in batches])


def maps_of(batches: list[Batch], name: str) -> torch.Tensor:
    return torch.cat([getattr(batch.targets, name).float() for batch in batches])


def assert_same(found: list[Batch], expected: list[Batch]) -> None:
    assert torch.equal(images_of(found), images_of(expected))
    for name in ("shrink_map", "shrink_mask", "thresh_map", "thresh_mask"):
        assert torch.equal(maps_of(found, name), maps_of(expected, name)), name
    for one, other in zip(found, expected, strict=True):
        assert [sample.index for sample in one.samples] == [sample.index for sample in other.samples]
        assert [sample.is_padding for sample in one.samples] == [sample.is_padding for sample in other.samples]


def counts(loader: BatchLoader) -> tuple[int, int]:
    return loader.statistics.epoch_hits, loader.statistics.epoch_misses


TIERS = {
    "ram": {},
    "half in ram": {"budget_entries": 5},
    "nothing": {"budget_entries": 0},
    "disk": {"budget_entries": 0, "directory": "cache"},
    "half in ram, all on disk": {"budget_entries": 5, "directory": "cache"},
    "all in ram and on disk": {"directory": "cache"},
    "half on disk": {"budget_entries": 0, "directory": "cache", "disk_budget": 600_000},
}


def in_folder(settings: dict, folder: Path) -> dict:
    return settings | ({"directory": str(folder / "cache")} if "directory" in settings else {})


@pytest.mark.parametrize("loader", ["dali", "torch"])
@pytest.mark.parametrize("settings", TIERS.values(), ids=TIERS.keys())
def test_every_tier_serves_what_the_uncached_loader_makes(drawn_once, tmp_path, settings, loader):
    expected = run_epoch(make_loader(drawn_once, cached=False, loader=loader))
    cached = make_loader(drawn_once, loader=loader, **in_folder(settings, tmp_path))
    first = run_epoch(cached)
    assert torch.equal(images_of(first), images_of(expected).half())
    assert torch.equal(maps_of(first, "shrink_map"), maps_of(expected, "shrink_map"))
    assert torch.equal(maps_of(first, "shrink_mask"), maps_of(expected, "shrink_mask"))
    assert torch.equal(maps_of(first, "thresh_mask"), maps_of(expected, "thresh_mask"))
    assert (maps_of(first, "thresh_map") - maps_of(expected, "thresh_map")).abs().max() < 2.5e-4
    assert counts(cached) == (0, NUM_IMAGES)
    for epoch in (1, 2):
        assert_same(run_epoch(cached, epoch), first)
    cached.close()


def test_hits_are_what_is_kept(drawn_once, tmp_path):
    expected = {
        "ram": 10,
        "half in ram": 4,
        "nothing": 0,
        "disk": 10,
        "half in ram, all on disk": 10,
        "half on disk": 5,
    }
    for name, num_hits in expected.items():
        cached = make_loader(drawn_once, **in_folder(TIERS[name], tmp_path / name))
        run_epoch(cached)
        run_epoch(cached, 1)
        assert counts(cached) == (num_hits, NUM_IMAGES - num_hits), name


def test_from_the_second_epoch_a_batch_is_a_view_of_resident_memory(drawn_once):
    cached = make_loader(drawn_once)
    run_epoch(cached)
    resident = cached.cache.store._blocks[0].tensors["images"]
    for step, batch in enumerate(run_epoch(cached, 1)):
        assert batch.images.data_ptr() == resident[step * BATCH].data_ptr()
        assert batch.images.dtype == torch.float16


def test_uint8_keeps_the_exact_pixels_in_half_the_memory(drawn_once):
    expected = run_epoch(make_loader(drawn_once, cached=False))
    cached = make_loader(drawn_once, dtype="uint8")
    first = run_epoch(cached)
    assert images_of(first).dtype == torch.float32
    torch.testing.assert_close(images_of(first), images_of(expected), atol=1e-5, rtol=0)
    assert_same(run_epoch(cached, 1), first)
    half = make_loader(drawn_once)
    image_bytes = {
        name: loader.cache.store._blocks[0].tensors["images"].nbytes for name, loader in (("u", cached), ("f", half))
    }
    assert 2 * image_bytes["u"] == image_bytes["f"]


@pytest.mark.parametrize("settings", [{}, {"budget_entries": 0, "directory": "cache"}], ids=["ram", "disk"])
def test_two_ranks_hold_half_each_and_serve_each_sample_once(drawn_once, tmp_path, settings):
    whole = images_of(run_epoch(make_loader(drawn_once)))
    ranks = [
        make_loader(drawn_once, rank=rank, num_ranks=4, **in_folder(settings, tmp_path)) for rank in range(4)
    ]  # 10 images: two ranks have one of padding
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


def test_an_unchanged_second_run_finds_everything_on_disk(drawn_once, tmp_path):
    first = make_loader(drawn_once, directory=str(tmp_path / "cache"))
    expected = run_epoch(first)
    second = make_loader(drawn_once, directory=str(tmp_path / "cache"))
    assert_same(run_epoch(second), expected)
    assert counts(second) == (NUM_IMAGES, 0)


def change_image_bytes(root: Path) -> dict:
    """Another picture of the same size under the old name, with the old times."""
    path, other = sorted((root / "images" / "val").iterdir())[:2]
    before = path.stat()
    from PIL import Image

    with Image.open(path) as image:
        exif, size = image.getexif(), image.size
    with Image.open(other) as image:
        image.convert("RGB").resize(size).save(path, exif=exif, quality=90)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return {}


def change_one_polygon(root: Path) -> dict:
    path = root / "jsons" / "val.json"
    annotations = json.loads(path.read_text())
    points = next(image for image in annotations["images"].values() if image["words"])["words"]["0001"]["points"]
    points[0][0] += 3
    path.write_text(json.dumps(annotations))
    return {}


def change_a_flag(root: Path) -> dict:
    path = root / "jsons" / "val.json"
    annotations = json.loads(path.read_text())
    next(image for image in annotations["images"].values() if image["words"])["words"]["0001"]["illegibility"] = True
    path.write_text(json.dumps(annotations))
    return {}


def change_image_size(root: Path) -> dict:
    return {"pipeline": PipelineConfig(image_size=160)}


def change_mean(root: Path) -> dict:
    return {"pipeline": PipelineConfig(image_size=SIZE, mean=(120, 110, 100))}


def change_std(root: Path) -> dict:
    return {"pipeline": PipelineConfig(image_size=SIZE, std=(50, 50, 50))}


def change_shrink_ratio(root: Path) -> dict:
    return {"targets": TargetConfig(map_stride=2, shrink_ratio=0.6)}


def change_dtype(root: Path) -> dict:
    return {"dtype": "uint8"}


def change_loader(root: Path) -> dict:
    return {"loader": "torch"}


def change_data_set(root: Path) -> dict:
    """Another set under other paths, whose files have the same names."""
    other = draw_data_set(
        SyntheticConfig(num_train=1, num_val=NUM_IMAGES, seed=99), root.parent / "other", num_workers=1
    )
    return {"root": other}


CHANGES = [value for name, value in list(globals().items()) if name.startswith("change_")]


@pytest.mark.parametrize("change", CHANGES)
def test_after_a_change_the_next_run_serves_nothing_old_from_disk(drawn_set, tmp_path, change):
    run_epoch(make_loader(drawn_set, directory=str(tmp_path / "cache")))
    changed = {"root": drawn_set} | change(drawn_set)
    again = make_loader(directory=str(tmp_path / "cache"), **changed)
    served = run_epoch(again)
    assert_same(served, run_epoch(make_loader(**changed)))
    num_changed = 1 if change in (change_image_bytes, change_one_polygon, change_a_flag) else NUM_IMAGES
    assert counts(again) == (NUM_IMAGES - num_changed, num_changed)


def test_a_changed_resize_filter_leaves_nothing_to_serve(drawn_once, tmp_path, monkeypatch):
    run_epoch(make_loader(drawn_once, directory=str(tmp_path / "cache")))
    monkeypatch.setattr(
        key, "code_digest", lambda: "of steps.py with another filter"
    )  # test_key.py shows that it differs
    again = make_loader(drawn_once, directory=str(tmp_path / "cache"))
    run_epoch(again)
    assert counts(again) == (0, NUM_IMAGES)


@pytest.mark.parametrize("settings", [{}, {"budget_entries": 0, "directory": "cache"}], ids=["ram", "disk"])
def test_an_image_that_changes_during_the_run_is_made_again(drawn_set, tmp_path, settings):
    cached = make_loader(drawn_set, **in_folder(settings, tmp_path))
    before = images_of(run_epoch(cached))  # a copy: the batches are views
    change_image_bytes(drawn_set)
    after = run_epoch(cached, 1)
    assert counts(cached) == (NUM_IMAGES - 1, 1)
    assert not torch.equal(images_of(after)[0], before[0])
    assert_same(after, run_epoch(make_loader(drawn_set)))
    run_epoch(cached, 2)
    assert counts(cached) == (NUM_IMAGES, 0)


def alter(path: Path) -> None:
    """Changes one value of an entry and makes its checksum fit again."""
    data = bytearray(path.read_bytes())
    data[HEADER.size + 5000] ^= 0x10
    checksum = _checksum([np.frombuffer(bytes(data[HEADER.size :]), np.uint8)])
    _, entry_key, size, _ = HEADER.unpack(data[: HEADER.size])
    path.write_bytes(HEADER.pack(MAGIC, entry_key, size, checksum) + data[HEADER.size :])


def test_verify_names_an_entry_that_was_altered_in_memory(drawn_once):
    cached = make_loader(drawn_once, verify=NUM_IMAGES)
    run_epoch(cached)
    run_epoch(cached, 1)  # nothing is wrong yet
    cached.cache.store._blocks[0].tensors["images"][7, 1, 5, 5] += 0.25
    with pytest.raises(
        CacheError, match=r"val_00007\.jpg: 1 of 49152 values of its cached images differ .* by up to 0\.25"
    ):
        run_epoch(cached, 2)


def test_verify_names_a_target_map_that_was_altered(drawn_once):
    cached = make_loader(drawn_once, verify=NUM_IMAGES)
    run_epoch(cached)
    cached.cache.store._blocks[0].tensors["thresh_map"][3, 9, 9] = float("nan")
    with pytest.raises(CacheError, match=r"val_00003\.jpg: 1 of 4096 values of its cached thresh_map differ"):
        run_epoch(cached, 1)


def test_verify_names_an_entry_that_was_altered_on_disk(drawn_once, tmp_path):
    run_epoch(make_loader(drawn_once, directory=str(tmp_path)))
    for path in tmp_path.iterdir():
        alter(path)
    with pytest.raises(CacheError, match=rf"val_0000\d\.jpg: 1 of 49152 values .* Delete the folder {tmp_path}"):
        run_epoch(make_loader(drawn_once, directory=str(tmp_path), verify=8))


def test_verify_names_an_entry_whose_checksum_is_wrong(drawn_once, tmp_path):
    run_epoch(make_loader(drawn_once, directory=str(tmp_path)))
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(CacheError, match=r"val_0000\d\.jpg: .*checksum"):
        run_epoch(make_loader(drawn_once, directory=str(tmp_path), verify=1))


def test_verify_leaves_results_and_counts_as_they_are(drawn_once):
    expected = run_epoch(make_loader(drawn_once))
    cached = make_loader(drawn_once, verify=3)
    for epoch in range(3):
        assert_same(run_epoch(cached, epoch), expected)
    assert counts(cached) == (NUM_IMAGES, 0)


@pytest.mark.parametrize("budget_entries", [0, None], ids=["disk", "disk into ram"])
def test_damaged_files_are_named_made_again_and_replaced(drawn_once, tmp_path, caplog, budget_entries):
    settings = {"directory": str(tmp_path), "budget_entries": budget_entries}
    expected = run_epoch(make_loader(drawn_once, **settings))
    for number, path in enumerate(sorted(tmp_path.iterdir())):
        if number % 3 == 0:
            os.truncate(path, 1000 * number)
        elif number % 3 == 1:
            path.write_bytes(bytes(path.stat().st_size))
    again = make_loader(drawn_once, **settings)
    with caplog.at_level(logging.WARNING):
        assert_same(run_epoch(again), expected)
    assert counts(again) == (3, 7)
    assert sum("is made again" in record.message for record in caplog.records) == 7
    assert all(".entry" in record.message and "val_0000" in record.message for record in caplog.records)
    third = make_loader(drawn_once, **settings)
    assert_same(run_epoch(third), expected)
    assert counts(third) == (NUM_IMAGES, 0)


def test_entries_that_vanish_during_the_run_are_made_again(drawn_once, tmp_path):
    cached = make_loader(drawn_once, directory=str(tmp_path / "cache"), budget_entries=0)
    expected = run_epoch(cached)
    cached.set_epoch(1)
    batches = []
    for batch in cached:
        batches.append(batch)
        shutil.rmtree(tmp_path / "cache")
        (tmp_path / "cache").mkdir()
    assert_same(batches, expected)


def test_an_epoch_that_is_left_early_keeps_what_it_made(drawn_once):
    cached = make_loader(drawn_once)
    batches = iter(cached)
    next(batches)
    batches.close()
    assert_same(run_epoch(cached, 1), run_epoch(make_loader(drawn_once)))
    assert counts(cached) == (BATCH, NUM_IMAGES - BATCH)


def test_two_runs_share_a_folder_at_the_same_time(drawn_once, tmp_path):
    runs = [make_loader(drawn_once, directory=str(tmp_path), budget_entries=0) for _ in range(2)]
    expected = run_epoch(make_loader(drawn_once))
    for epoch in range(2):
        for run in runs:
            run.set_epoch(epoch)
        pairs = list(zip(*runs, strict=True))
        for run_batches in zip(*pairs, strict=True):
            assert_same(list(run_batches), expected)
    assert len(list(tmp_path.iterdir())) == NUM_IMAGES


def test_a_file_that_fails_is_left_out_each_epoch_and_never_reaches_the_disk(drawn_set, tmp_path):
    path = sorted((drawn_set / "images" / "val").iterdir())[5]
    cached = make_loader(drawn_set, directory=str(tmp_path / "cache"))
    path.write_bytes(path.read_bytes()[:2000])  # after the audit
    for epoch in (0, 1):
        batches = run_epoch(cached, epoch)
        flags = [sample.is_padding for batch in batches for sample in batch.samples]
        assert flags == [index == 5 for index in range(NUM_IMAGES)]
        assert not batches[1].targets.shrink_mask[1].any()
        assert list(cached.failures) == [str(path)]
    assert counts(cached) == (NUM_IMAGES, 0)
    assert len(list((tmp_path / "cache").iterdir())) == NUM_IMAGES - 1


def test_real_receipts_and_scenes_are_the_same_from_the_cache(sroie, icdar15, tmp_path):
    for root in (sroie, icdar15):
        settings = {"pipeline": PipelineConfig(image_size=320), "directory": str(tmp_path), "budget_entries": 12}
        cached = make_loader(root, **settings)
        first = run_epoch(cached)
        expected = run_epoch(make_loader(root, cached=False, pipeline=PipelineConfig(image_size=320)))
        assert torch.equal(images_of(first), images_of(expected).half())
        assert_same(run_epoch(cached, 1), first)
        assert counts(cached) == (len(cached.dataset), 0)


def test_a_file_that_fails_as_padding_never_reaches_the_disk_either(drawn_set, tmp_path):
    """10 images on 4 ranks: rank 2 repeats image 0 as padding."""
    path = sorted((drawn_set / "images" / "val").iterdir())[0]
    ranks = [make_loader(drawn_set, rank=rank, num_ranks=4, directory=str(tmp_path / "cache")) for rank in range(4)]
    path.write_bytes(path.read_bytes()[:2000])  # after the audit
    for loader in ranks:
        run_epoch(loader)
    assert len(list((tmp_path / "cache").iterdir())) == NUM_IMAGES - 1


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_changed_image_is_noticed_when_worker_processes_kept_its_pixels(drawn_set, tmp_path, num_workers):
    cached = make_loader(
        drawn_set,
        loader="torch",
        num_workers=num_workers,
        budget_entries=0,
        directory=str(tmp_path / "cache"),
        cache_decoded_images=True,
    )
    run_epoch(cached)
    for epoch in (1, 3):
        change_image_bytes(drawn_set)
        assert_same(run_epoch(cached, epoch), run_epoch(make_loader(drawn_set, loader="torch")))
        run_epoch(cached, epoch + 1)
        assert counts(cached) == (NUM_IMAGES, 0)
    cached.close()
    again = make_loader(drawn_set, loader="torch", directory=str(tmp_path / "cache"))
    assert_same(run_epoch(again), run_epoch(make_loader(drawn_set, loader="torch")))


def test_an_epoch_left_early_is_settled_before_the_next(drawn_set, tmp_path, monkeypatch):
    """Its reads and writes are still under way, slowly, when the next epoch begins with a changed image."""
    cached = make_loader(drawn_set, budget_entries=0, directory=str(tmp_path / "cache"))
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
        change_image_bytes(drawn_set)
    assert_same(run_epoch(cached, 3), run_epoch(make_loader(drawn_set)))


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
def test_every_tier_of_a_gpu_serves_the_same_and_takes_the_bytes_predicted(
    drawn_once, tmp_path, settings, expected_bytes
):
    device = torch.device("cuda", 0)
    cached = make_loader(drawn_once, device=device, **in_folder(settings, tmp_path))
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
