"""Batches from shards are those of the loose files, for each plan, reader and place; and what is said where something is wrong."""

import builtins
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from dali_pipelines.config import PipelineConfig
from dali_pipelines.loader import SampleError
from ocr.cache.images import keep_images
from ocr.cache.key import ImageDigests
from ocr.datasets.base import ValidatedOCRDataset, load_manifest
from ocr.datasets.image_source import ImageFiles
from ocr.datasets.loader import Batch, BatchLoader
from ocr.datasets.manifest import Manifest
from ocr.datasets.plan import SamplePlanner
from ocr.datasets.schemas import CacheConfig, DatasetConfig
from ocr.datasets.shards.images import load_shards
from ocr.datasets.shards.read_ahead import ReadAhead, ReadAheadPlan
from ocr.errors import InputError, StorageError

CPU = torch.device("cpu")
CONFIG = PipelineConfig(image_size=160)
READERS = {"dali": "dali", "webdataset": "torch"}
"""shard_reader, and the loader of loose files that it must equal."""


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
    settings = {"batch_size": 4, "num_workers": 0, "with_targets": True} | settings
    return BatchLoader(dataset_of(manifest, training), loader=engine, device=CPU, **settings)


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


@pytest.mark.parametrize(("training", "num_workers"), [(True, 0), (False, 2)])
def test_batches_are_those_of_the_loose_files(reader, training, num_workers, receipts):
    split = "train" if training else "val"
    shards = load_shards(str(receipts / "shards" / split), reader)[0]
    settings = {"training": training, "num_workers": num_workers}
    expected = loader_of(loose(receipts, split), READERS[reader], **settings)
    found = loader_of(shards, READERS[reader], **settings)
    for epoch in range(2):
        for loader in (expected, found):
            loader.set_epoch(epoch)
        assert_same_batches(list(found), list(expected))
    assert found.failures == {}
    found.close()
    expected.close()


def test_a_rank_with_padding_goes_on_in_the_middle_of_an_epoch(reader, receipts):
    settings = {
        "rank": 3,
        "num_ranks": 4,
        "batch_size": 2,
    }  # 14 images: 4 places a rank, the last of this one is padding
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
    assert_same_batches(list(left), expected)  # the one that was left starts anew


def overwrite(path: Path, start: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(content)


def place_of(shards: Path, index: int) -> tuple[Path, dict]:
    document = json.loads((shards / "index.json").read_text())
    image = document["images"][index]
    return shards / document["shards"][image["shard"]]["name"], image


@pytest.mark.parametrize("part", ["image", "header"])
def test_an_image_that_is_damaged_in_its_shard_costs_its_slot_and_is_named(reader, part, copied_receipts, caplog):
    shards = copied_receipts / "shards/train"
    expected = list(loader_of(loose(copied_receipts), READERS[reader]))
    manifest = load_shards(str(shards), reader)[0]
    tar, image = place_of(shards, 5)
    if part == "image":
        overwrite(tar, image["offset"], bytes(image["num_bytes"]))
    else:
        overwrite(tar, image["offset"] - 512, b"\xff" * 512)
    loader = loader_of(manifest, READERS[reader])
    with caplog.at_level(logging.ERROR):
        found = list(loader)
    is_hit = part == "image" or reader == "webdataset"  # DALI takes the image's own bytes: it needs no tar header
    slots = [(one, slot) for one in found for slot, sample in enumerate(one.samples) if sample.has_failed]
    assert [one.samples[slot].index for one, slot in slots] == ([5] if is_hit else [])
    assert list(loader.failures) == ([f"{tar.name}: {image['filename']}"] if is_hit else [])
    for one, other in zip(found, expected, strict=True):
        for slot, sample in enumerate(one.samples):
            if sample.has_failed:
                assert one.targets.shrink_mask[slot].max() == 0
            else:
                assert torch.equal(one.images[slot], other.images[slot])
    if is_hit:
        assert f"{tar.name}: {image['filename']}" in caplog.text
        strict = loader_of(manifest, READERS[reader], skip_failures=False)
        with pytest.raises(SampleError, match=image["filename"]):
            list(strict)


def test_a_shard_that_is_cut_while_it_is_read_costs_what_is_gone(reader, copied_receipts):
    shards = copied_receipts / "shards/train"
    manifest = load_shards(str(shards), reader)[0]
    tar, image = place_of(shards, 2)
    with tar.open("r+b") as file:
        file.truncate(image["offset"] + 1000)
    document = json.loads((shards / "index.json").read_text())
    gone = {i for i, other in enumerate(document["images"]) if other["shard"] == image["shard"] and i >= 2}
    loader = loader_of(manifest, READERS[reader])
    failed = {sample.index for batch in loader for sample in batch.samples if sample.has_failed}
    assert failed == gone
    assert set(loader.failures) == {manifest.image_paths[index] for index in gone}
    assert f"{tar.name} ends within it: 1" in loader.failures[manifest.image_paths[2]]


def test_a_shard_that_is_exchanged_while_it_is_read_ends_the_run(reader, copied_receipts):
    shards = copied_receipts / "shards/train"
    loader = loader_of(load_shards(str(shards), reader)[0], READERS[reader], num_workers=1)
    for tar in shards.glob("*.tar"):
        other = tar.with_suffix(".other")
        shutil.copyfile(tar, other)
        other.replace(tar)
    with pytest.raises(StorageError, match=r"^/.*\.tar: was exchanged while it is read; start the run again$"):
        list(loader)
    loader.close()


def test_shards_that_are_not_as_their_index_says_are_named_before_the_run(copied_receipts, tmp_path):
    shards = copied_receipts / "shards/train"
    with pytest.raises(
        StorageError, match=r"none/index\.json: there is no such file; write the shards with .*shards=true"
    ):
        load_shards(str(tmp_path / "none"))
    tar = shards / "train-000001.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[:-600])
    with pytest.raises(
        StorageError, match=rf"train-000001\.tar: {len(whole) - 600} bytes; its index says {len(whole)}: cut"
    ):
        load_shards(str(shards))
    tar.unlink()
    with pytest.raises(
        StorageError, match=r"train-000001\.tar: a shard that the index lists cannot be read: No such file"
    ):
        load_shards(str(shards))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 2}, "version: Input should be 1"),
        ({"shards": []}, "lies outside of the shards"),
        ({"extra": 1}, "extra: Extra inputs are not permitted"),
    ],
)
def test_an_index_of_another_kind_is_refused(change, said, copied_receipts):
    path = copied_receipts / "shards/train/index.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | change))
    with pytest.raises(InputError, match=f"index.json: not an index of shards that this version reads: .*{said}"):
        load_shards(str(path.parent))
    path.write_text(path.read_text()[:100])
    with pytest.raises(InputError, match=r"index\.json: not an index of shards.*Invalid JSON"):
        load_shards(str(path.parent))


@pytest.mark.parametrize(("package", "extra"), [("webdataset", "webdataset"), ("boto3", "s3")])
def test_a_missing_extra_is_named_with_its_command(package, extra, receipts, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    url = "s3://bucket/train" if package == "boto3" else str(receipts / "shards/train")
    with pytest.raises(InputError, match=f"uv sync --extra {extra}"):
        load_shards(url, "webdataset" if package == "webdataset" else "dali")


def digests_of(images) -> list[bytes | None]:
    digests = ImageDigests(images, range(14))
    digests.refresh()
    return [digests.digest(place) for place in range(14)]


def test_cache_keys_are_those_of_the_loose_files_and_follow_the_bytes(copied_receipts):
    shards = copied_receipts / "shards/train"
    images = load_shards(str(shards))[0].images
    digests = ImageDigests(images, range(14))
    digests.refresh()
    before = [digests.digest(place) for place in range(14)]
    assert before == digests_of(ImageFiles(loose(copied_receipts).image_paths))
    tar, image = place_of(shards, 3)
    overwrite(tar, image["offset"] + 2000, b"\0\0\0\0")
    assert not digests.is_unchanged(3)
    digests.refresh()
    assert [place for place in range(14) if digests.digest(place) != before[place]] == [3]


@pytest.mark.parametrize(
    ("image_format", "budget"), [("encoded", 10**9), ("encoded", 10**6), ("decoded", 10**9), ("decoded", 3 * 10**7)]
)
def test_images_in_memory_come_from_shards_too(reader, image_format, budget, copied_receipts):
    """What fits is in memory; the rest is fetched. With everything in memory the shards are not touched again."""
    shards = copied_receipts / "shards/train"
    expected = list(loader_of(loose(copied_receipts), READERS[reader]))
    loader = loader_of(load_shards(str(shards), reader)[0], READERS[reader])
    config = DatasetConfig(image_path="-", preload_images=True, cache_config=CacheConfig(image_format=image_format))
    kept = keep_images(config, loader.dataset.manifest, device=CPU, ram_budget=budget, device_budget=0)
    assert (kept.num_images == 14) == (budget == 10**9)
    assert kept.num_images > 0
    loader.dataset.keep_images(kept)
    again = BatchLoader(
        loader.dataset, loader=READERS[reader], batch_size=4, num_workers=0, device=CPU, with_targets=True
    )
    if budget == 10**9:
        shutil.rmtree(shards)
    assert_same_batches(list(again), expected)


def test_decoded_images_of_the_first_epoch_are_kept(reader, copied_receipts):
    shards = copied_receipts / "shards/train"
    expected = list(loader_of(loose(copied_receipts), READERS[reader]))
    dataset = dataset_of(load_shards(str(shards), reader)[0], training=True)
    config = DatasetConfig(image_path="-", cache_config=CacheConfig(cache_decoded_images=True))
    dataset.keep_images(keep_images(config, dataset.manifest, device=CPU, ram_budget=10**9, device_budget=0))
    settings = {"batch_size": 4, "num_workers": 1, "device": CPU, "with_targets": True}
    loader = BatchLoader(dataset, loader=READERS[reader], **settings)
    assert_same_batches(list(loader), expected)
    shutil.rmtree(shards)
    assert_same_batches(list(loader), expected)
    loader.close()


def test_a_single_sample_and_its_picture_come_from_shards(receipts):
    plain, sharded = dataset_of(loose(receipts), True), dataset_of(load_shards(str(receipts / "shards/train"))[0], True)
    np.testing.assert_array_equal(sharded.load_image(2).image_array, plain.load_image(2).image_array)
    assert torch.equal(sharded[2]["image"], plain[2]["image"])
    assert sharded[2]["filename"] == plain[2]["filename"]


def test_reading_ahead_asks_for_each_image_once_and_is_bounded():
    asked: list[list[int]] = []

    class Plan:
        epoch = 0

        def __len__(self):
            return 5

        def batch(self, step):
            planner = SamplePlanner(CONFIG, training=False, seed=0)
            return [planner.plan(step, step, (10, 10), None, 0)]

    plan = ReadAheadPlan(Plan(), asked.append, num_ahead=2)
    assert [plan.batch(0)[0].index, asked] == [0, [[0], [1], [2]]]
    assert [plan.batch(step)[0].index for step in range(1, 5)] == [1, 2, 3, 4]
    assert asked == [[0], [1], [2], [3], [4]]


def test_what_was_not_fetched_is_read_and_errors_arrive_where_they_are_asked_for():
    def read(index: int) -> bytes:
        if index == 2:
            raise OSError("gone")
        return bytes([index])

    ahead = ReadAhead(read, num_threads=2)
    ahead.fetch([0, 1, 2, 1])
    assert [ahead.get(1), ahead.get(1), ahead.get(0), ahead.get(7)] == [b"\1", b"\1", b"\0", b"\7"]
    with pytest.raises(OSError, match="gone"):
        ahead.get(2)
    ahead.stop()
    ahead.fetch([0])
    assert ahead.get(0) == b"\0"
    ahead.stop()


def s3_url(root: Path) -> str:
    return f"s3://{root.name}/shards/train"


def test_s3_gives_the_batches_of_the_loose_files_by_ranges(reader, copied_receipts, s3):
    manifest = load_shards(s3_url(copied_receipts), reader)[0]
    num_shards = len(list((copied_receipts / "shards/train").glob("*.tar")))
    assert sorted(line.partition(" ")[0] for line in s3.requests) == ["GET", *["HEAD"] * num_shards]  # no image yet
    expected = list(loader_of(loose(copied_receipts), READERS[reader]))
    s3.requests.clear()
    loader = loader_of(manifest, READERS[reader], num_workers=2)
    assert_same_batches(list(loader), expected)
    assert len(s3.requests) == len(manifest)
    assert all(line.startswith("GET") and "bytes=" in line for line in s3.requests)
    loader.close()


def test_an_answer_of_s3_that_breaks_off_is_asked_for_again(copied_receipts, s3, caplog):
    manifest = load_shards(s3_url(copied_receipts))[0]
    s3.num_cuts = 2
    assert manifest.images.read(3) == loose(copied_receipts).images.read(3)
    assert "an answer broke off and is asked for again" in caplog.text
    s3.num_cuts = 3
    with pytest.raises(StorageError, match=r"s3://copied/.*\.tar: http://127.*cannot be reached"):
        manifest.images.read(3)


def test_keys_of_s3_follow_index_and_object_without_a_read(copied_receipts, s3):
    url, shards = s3_url(copied_receipts), copied_receipts / "shards/train"
    before = digests_of(load_shards(url)[0].images)
    assert len(set(before)) == 14
    assert not any("bytes=" in line for line in s3.requests)
    assert digests_of(load_shards(url)[0].images) == before
    tar, image = place_of(shards, 3)
    overwrite(tar, image["offset"] + 2000, b"\0\0\0\0")
    after = digests_of(load_shards(url)[0].images)
    same_shard = [place_of(shards, place)[0] == tar for place in range(14)]
    assert [one != other for one, other in zip(after, before, strict=True)] == same_shard


def test_what_s3_refuses_is_said_with_what_to_do(copied_receipts, s3, aws):
    url, shards = s3_url(copied_receipts), copied_receipts / "shards/train"
    with pytest.raises(
        StorageError, match=r"s3://nowhere/train/index\.json: http://127.*has no such object.*shards=true"
    ):
        load_shards("s3://nowhere/train")
    with pytest.raises(InputError, match="no bucket; expected s3://BUCKET/PREFIX"):
        load_shards("s3://")
    manifest = load_shards(url)[0]
    for tar in shards.glob("*.tar"):
        overwrite(tar, 600, b"other bytes")
    with pytest.raises(
        StorageError, match=r"s3://copied/.*\.tar: was exchanged while it is read .*start the run again"
    ):
        list(loader_of(manifest, "dali"))
    tar.write_bytes(tar.read_bytes()[:-512])
    with pytest.raises(
        StorageError, match=rf"s3://copied/shards/train/{tar.name}: \d+ bytes; its index says \d+: cut short"
    ):
        load_shards(url)
    tar.unlink()
    with pytest.raises(StorageError, match=rf"s3://copied/shards/train/{tar.name}: http://127.*has no such object"):
        load_shards(url)
    aws.delenv("AWS_ACCESS_KEY_ID")
    aws.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StorageError, match="no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        load_shards(url)


def test_an_endpoint_that_is_not_there_is_named(aws):
    aws.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(
        StorageError, match=r"s3://bucket/train/index\.json: http://127\.0\.0\.1:9 cannot be reached.*AWS_ENDPOINT_URL"
    ):
        load_shards("s3://bucket/train")


@pytest.mark.gpu
@pytest.mark.parametrize("training", [True, False])
def test_a_gpu_gets_from_shards_what_it_gets_from_files(training, receipts):
    split, device = "train" if training else "val", torch.device("cuda", 0)
    batches = [
        list(
            BatchLoader(
                dataset_of(manifest, training),
                loader="dali",
                batch_size=4,
                num_workers=0,
                device=device,
                with_targets=True,
            )
        )
        for manifest in (loose(receipts, split), load_shards(str(receipts / "shards" / split))[0])
    ]
    for one, other in zip(*batches, strict=True):
        # Not bit for bit: JPEG engines and CUDA cores share a batch (hw_decoder_load), and their pixels may differ.
        assert (one.images.float() - other.images.float()).abs().flatten(1).mean(dim=1).max() * 58 < 0.5
        assert [sample.index for sample in one.samples] == [sample.index for sample in other.samples]
        assert torch.equal(one.targets.shrink_map, other.targets.shrink_map)
