"""Batches from shards equal those of the loose files, for each plan, reader and storage; damage is named."""

import logging
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from dali_pipelines.config import PipelineConfig
from dali_pipelines.loader import DaliLoader
from dali_pipelines.source import SampleError
from ocr.datasets.audit import load_manifest
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.column_file import map_columns
from ocr.datasets.kept_images import keep_images
from ocr.datasets.manifest import Manifest
from ocr.datasets.plan import SamplePlanner
from ocr.datasets.schemas import CacheConfig, DatasetConfig
from ocr.datasets.shards.images import ShardImages, load_shards
from ocr.datasets.shards.writer import ShardWriter
from ocr.errors import StorageError
from ocr.loaders.batch import Batch
from ocr.loaders.engines import Engine, image_loader
from ocr.loaders.loader import BatchLoader
from ocr.loaders.shards import ShardLoader
from ocr.loaders.torch_workers import TorchLoader

CPU = torch.device("cpu")
CONFIG = PipelineConfig(image_size=160)
READERS = {"dali": "dali", "webdataset": "torch"}
"""Loader whose batches of loose files each shard_reader must reproduce."""


def loose(root: Path, split: str = "train") -> Manifest:
    config = DatasetConfig(
        image_path=str(root / ("images/train" if split == "train" else "images_val_canonical")),
        annotation_path=str(root / f"jsons/{split}.json"),
    )
    return load_manifest(config, max_megapixels=100)[0]


def dataset_of(manifest: Manifest, training: bool, **config) -> ValidatedOCRDataset:
    planner = SamplePlanner(CONFIG, training=training, seed=3)
    return ValidatedOCRDataset(DatasetConfig(image_path="-", **config), planner, manifest=manifest)


def loader_of(manifest: Manifest, engine: str, *, training: bool = True, **settings) -> BatchLoader:
    settings = {"batch_size": 4, "with_targets": True} | settings
    executes = Engine(engine, CPU, settings.pop("num_workers", 0), settings.pop("skip_failures", True))
    return BatchLoader(dataset_of(manifest, training), executes, **settings)


def assert_same_batches(found: list[Batch], expected: list[Batch]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.images, other.images)
        for mine, theirs in zip(one.samples, other.samples, strict=True):
            assert (mine.index, mine.is_padding, mine.has_failed) == (
                theirs.index,
                theirs.is_padding,
                theirs.has_failed,
            )
            np.testing.assert_array_equal(mine.input_from_original, theirs.input_from_original)
        names = [[batch.dataset.manifest.filenames[s.index] for s in batch.samples] for batch in (one, other)]
        assert names[0] == names[1]
        for name in ("vertices", "vertex_starts", "polygon_starts", "ignore"):
            np.testing.assert_array_equal(getattr(one.polygons_input, name), getattr(other.polygons_input, name))
        for name in ("shrink_map", "shrink_mask", "thresh_map", "thresh_mask"):
            assert torch.equal(getattr(one.targets, name), getattr(other.targets, name))


@pytest.fixture(params=READERS)
def reader(request) -> str:
    if request.param == "webdataset":
        pytest.importorskip("webdataset", reason="needs uv sync --extra webdataset")
    return request.param


def test_engine_and_storage_choose_the_image_loader(receipts):
    files, shards = loose(receipts), load_shards(str(receipts / "shards/train"))[0]
    for manifest, name, expected in (
        (files, "dali", DaliLoader),
        (shards, "dali", ShardLoader),
        (files, "torch", TorchLoader),
        (shards, "torch", TorchLoader),
    ):
        dataset = dataset_of(manifest, training=True)
        loader = image_loader(dataset, Engine(name, CPU), batch_size=2, levels=False, failures={})
        assert type(loader) is expected


@pytest.fixture(scope="module")
def batches_of_files(receipts: Path) -> dict[str, list[Batch]]:
    """Epoch 0 of the loose files, by engine."""
    return {engine: list(loader_of(loose(receipts), engine)) for engine in READERS.values()}


@pytest.fixture
def expected(reader: str, batches_of_files: dict[str, list[Batch]]) -> list[Batch]:
    """Epoch 0 of the loose files, as the reader must give it."""
    return batches_of_files[READERS[reader]]


@pytest.mark.parametrize(("training", "num_workers"), [(True, 0), (False, 2)])
def test_batches_equal_those_of_the_loose_files(reader, training, num_workers, receipts):
    split = "train" if training else "val"
    shards = load_shards(str(receipts / "shards" / split), reader)[0]
    settings = {"training": training, "num_workers": num_workers}
    expected = loader_of(loose(receipts, split), READERS[reader], **settings)
    found = loader_of(shards, READERS[reader], **settings)
    found.num_epochs = 2  # the second epoch is prepared during the first one
    for epoch in range(2):
        for loader in (expected, found):
            loader.set_epoch(epoch)
        assert_same_batches(list(found), list(expected))
    assert found.failures == {}
    found.close()
    expected.close()


def test_a_rank_with_padding_resumes_in_the_middle_of_an_epoch(reader, receipts):
    # 14 images on 4 ranks: 4 places a rank, and the last of this one is padding.
    settings = {"rank": 3, "num_ranks": 4, "batch_size": 2}
    expected = list(loader_of(loose(receipts), READERS[reader], **settings))
    shards = load_shards(str(receipts / "shards/train"), reader)[0]
    left = loader_of(shards, READERS[reader], **settings)
    iterator = iter(left)
    first = next(iterator)
    state = left.state_dict()
    iterator.close()
    resumed = loader_of(shards, READERS[reader], **settings)
    resumed.load_state_dict(state)
    assert_same_batches([first, *resumed], expected)
    assert [sample.is_padding for sample in expected[-1].samples] == [False, True]
    assert_same_batches(list(left), expected)  # an abandoned loader starts from the beginning


def overwrite(path: Path, start: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(content)


def place_of(shards: Path, index: int) -> tuple[Path, dict[str, int]]:
    mapped = map_columns(shards / "index.columns")
    image = {name: int(mapped.columns[name][index]) for name in ("offsets", "num_bytes")}
    return shards / mapped.values["shards"][mapped.columns["shard_numbers"][index]]["name"], image


@pytest.mark.parametrize("damage", ["zeros", "empty"])
def test_an_image_damaged_before_it_was_written_costs_its_slot_and_is_named(
    reader, damage, expected, copied_receipts, tmp_path, caplog
):
    files = loose(copied_receipts)
    broken = Path(files.image_paths[5])
    broken.write_bytes(bytes(broken.stat().st_size if damage == "zeros" else 0))
    write_shards(files, tmp_path / "shards")
    manifest = load_shards(str(tmp_path / "shards"), reader)[0]
    loader = loader_of(manifest, READERS[reader])
    with caplog.at_level(logging.ERROR):
        found = list(loader)
    slots = [(one, slot) for one in found for slot, sample in enumerate(one.samples) if sample.has_failed]
    assert [one.samples[slot].index for one, slot in slots] == [5]
    name = f"train-000000.tar: {broken.name}"
    assert list(loader.failures) == [name]
    assert name in caplog.text
    for one, other in zip(found, expected, strict=True):
        for slot, sample in enumerate(one.samples):
            if sample.has_failed:
                assert one.targets.shrink_mask[slot].max() == 0
            else:
                assert torch.equal(one.images[slot], other.images[slot])
    with pytest.raises(SampleError, match=broken.name):
        list(loader_of(manifest, READERS[reader], skip_failures=False))


def write_shards(manifest: Manifest, folder: Path) -> None:
    ShardWriter(manifest, folder, "train", 10**9).write_all()


OTHER_BYTES = r"^/.*train-00000\d\.tar: the bytes of .* do not match index\.columns: .*copy the shards again together"


@pytest.mark.parametrize("change", ["one byte", "tar header", "cut", "exchanged"])
def test_bytes_that_differ_from_the_index_end_the_run(reader, change, copied_receipts):
    shards = copied_receipts / "shards/train"
    loader = loader_of(load_shards(str(shards), reader)[0], READERS[reader], num_workers=1)
    tar, image = place_of(shards, 5)
    if change == "one byte":
        with tar.open("r+b") as file:
            file.seek(image["offsets"] + image["num_bytes"] - 2)
            byte = file.read(1)[0]
        overwrite(tar, image["offsets"] + image["num_bytes"] - 2, bytes([byte ^ 1]))
    elif change == "tar header":
        overwrite(tar, image["offsets"] - 512, b"\xff" * 512)
    elif change == "cut":
        with tar.open("r+b") as file:
            file.truncate(image["offsets"] + 1000)
    else:
        other = place_of(shards, 0)[0]
        assert other != tar
        shutil.copyfile(other, tar)
    if change == "tar header" and reader == "dali":  # takes the image's own bytes: it needs no tar header
        assert sum(len(batch.samples) for batch in loader) == 14
    else:
        with pytest.raises(StorageError, match=OTHER_BYTES):
            list(loader)
    loader.close()


def test_reading_continues_after_shards_are_replaced_by_copies(reader, expected, copied_receipts):
    """Some network mounts, too, give a file another inode from time to time."""
    shards = copied_receipts / "shards/train"
    loader = loader_of(load_shards(str(shards), reader)[0], READERS[reader])
    for tar in shards.glob("*.tar"):
        other = tar.with_suffix(".other")
        shutil.copyfile(tar, other)
        other.replace(tar)
    assert_same_batches(list(loader), expected)


@pytest.mark.parametrize(
    ("image_format", "budget"), [("encoded", 10**9), ("encoded", 10**6), ("decoded", 10**9), ("decoded", 3 * 10**7)]
)
def test_images_in_memory_come_from_shards_too(reader, image_format, budget, expected, copied_receipts, monkeypatch):
    """Images beyond the budget are fetched. With everything in memory, the shards are not read again."""
    shards = copied_receipts / "shards/train"
    loader = loader_of(load_shards(str(shards), reader)[0], READERS[reader])
    config = DatasetConfig(image_path="-", preload_images=True, cache_config=CacheConfig(image_format=image_format))
    kept = keep_images(config, loader.dataset.manifest, device=CPU, ram_budget=budget, device_budget=0)
    assert (kept.num_images == 14) == (budget == 10**9)
    assert kept.num_images > 0
    loader.dataset.kept_images = kept
    again = BatchLoader(loader.dataset, Engine(READERS[reader], CPU), batch_size=4, with_targets=True)
    reads: list[list[int]] = []
    if budget == 10**9:
        monkeypatch.setattr(ShardImages, "read_range", lambda images, indices: reads.append(indices) or {})
    assert_same_batches(list(again), expected)
    assert reads == []


def test_decoded_images_of_the_first_epoch_are_kept(reader, expected, copied_receipts):
    shards = copied_receipts / "shards/train"
    dataset = dataset_of(load_shards(str(shards), reader)[0], training=True)
    config = DatasetConfig(image_path="-", cache_config=CacheConfig(cache_decoded_images=True))
    dataset.kept_images = keep_images(config, dataset.manifest, device=CPU, ram_budget=10**9, device_budget=0)
    loader = BatchLoader(dataset, Engine(READERS[reader], CPU, num_workers=1), batch_size=4, with_targets=True)
    assert_same_batches(list(loader), expected)
    shutil.rmtree(shards)
    assert_same_batches(list(loader), expected)
    loader.close()


def test_a_single_sample_and_its_picture_come_from_shards(receipts):
    plain, sharded = dataset_of(loose(receipts), True), dataset_of(load_shards(str(receipts / "shards/train"))[0], True)
    np.testing.assert_array_equal(sharded.load_image(2).image_array, plain.load_image(2).image_array)
    assert torch.equal(sharded[2]["image"], plain[2]["image"])
    assert sharded[2]["filename"] == plain[2]["filename"]


def reader_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("shard-reader")}


def test_a_closed_loader_leaves_no_thread(reader, receipts):
    before = reader_threads()
    loader = loader_of(load_shards(str(receipts / "shards/train"), reader)[0], READERS[reader])
    next(iter(loader))
    started = reader_threads() - before
    assert started
    loader.close()
    for thread in started:
        thread.join(timeout=10)
        assert not thread.is_alive()


def s3_url(root: Path) -> str:
    return f"s3://{root.name}/shards/train"


def test_s3_gives_the_batches_of_the_loose_files_by_ranges(reader, expected, copied_receipts, s3):
    manifest = load_shards(s3_url(copied_receipts), reader)[0]
    num_shards = len(list((copied_receipts / "shards/train").glob("*.tar")))
    assert sorted(line.partition(" ")[0] for line in s3.requests) == ["GET", *["HEAD"] * num_shards]  # no image yet
    s3.requests.clear()
    loader = loader_of(manifest, READERS[reader], num_workers=2)
    assert_same_batches(list(loader), expected)
    assert all(line.startswith("GET") and "bytes=" in line for line in s3.requests)
    # DALI's feed reads ahead over all batches: one range a shard. A worker of loader=torch reads batch by batch.
    assert len(s3.requests) == num_shards if reader == "dali" else num_shards < len(s3.requests) <= len(manifest)
    loader.close()


@pytest.mark.gpu
@pytest.mark.parametrize("training", [True, False])
def test_on_a_gpu_shards_give_the_batches_of_the_files(training, receipts):
    split, device = "train" if training else "val", torch.device("cuda", 0)
    batches = [
        list(BatchLoader(dataset_of(manifest, training), Engine("dali", device), batch_size=4, with_targets=True))
        for manifest in (loose(receipts, split), load_shards(str(receipts / "shards" / split))[0])
    ]
    for one, other in zip(*batches, strict=True):
        # Not bit for bit: JPEG engines and CUDA cores share a batch (hw_decoder_load), and their pixels may differ.
        assert (one.images.float() - other.images.float()).abs().flatten(1).mean(dim=1).max() * 58 < 0.5
        assert [sample.index for sample in one.samples] == [sample.index for sample in other.samples]
        assert torch.equal(one.targets.shrink_map, other.targets.shrink_map)
