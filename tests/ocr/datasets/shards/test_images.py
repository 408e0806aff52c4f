"""Images in shards are returned only with the bytes that the index states."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ocr.cache.key import ImageDigests
from ocr.datasets.audit import build_manifest, load_manifest
from ocr.datasets.column_file import map_columns
from ocr.datasets.image_source import ImageFiles
from ocr.datasets.manifest import Manifest
from ocr.datasets.schemas import DatasetConfig
from ocr.datasets.shards.images import ShardImages, load_shards
from ocr.datasets.shards.writer import ShardWriter
from ocr.errors import StorageError


@pytest.fixture(params=["dali", "webdataset"])
def reader(request) -> str:
    if request.param == "webdataset":
        pytest.importorskip("webdataset", reason="needs uv sync --extra webdataset")
    return request.param


def loose_manifest(root: Path) -> Manifest:
    config = DatasetConfig(image_path=str(root / "images/train"), annotation_path=str(root / "jsons/train.json"))
    return load_manifest(config, max_megapixels=100)[0]


def write_shards(manifest: Manifest, folder: Path) -> None:
    ShardWriter(manifest, folder, "train", 10**9).write_all()


def test_an_index_of_other_shards_of_equal_size_is_refused_on_read(reader, tmp_path):
    """The two indices list the images in different orders: each image would get the annotations of another."""
    images = tmp_path / "images"
    images.mkdir()
    for name, level in (("0.png", 1), ("1.png", 2)):
        Image.fromarray(np.full((20, 30, 3), level, np.uint8)).save(images / name)
    manifest = build_manifest(images, None, extensions=(".png",))[0]
    write_shards(manifest, tmp_path / "one")
    (images / "0.png").rename(images / "other.png")
    (images / "1.png").rename(images / "0.png")
    (images / "other.png").rename(images / "1.png")
    write_shards(manifest, tmp_path / "two")
    shutil.copyfile(tmp_path / "one/index.columns", tmp_path / "two/index.columns")
    source = load_shards(str(tmp_path / "two"), reader)[0].images  # sizes agree
    for index in range(2):
        with pytest.raises(StorageError, match=r"\.tar: the bytes of .* do not match index\.columns"):
            source.read(index)


def digests_of(images) -> list[bytes | None]:
    digests = ImageDigests(images, range(14), by_content=True)
    digests.refresh()
    return [digests.digest(place) for place in range(14)]


def test_cache_keys_are_those_of_the_loose_files_and_need_no_read(copied_receipts):
    shards = copied_receipts / "shards/train"
    images = load_shards(str(shards))[0].images
    expected = digests_of(ImageFiles(loose_manifest(copied_receipts).image_paths))
    assert None not in expected
    shutil.rmtree(shards)
    assert digests_of(images) == expected


def num_bytes_of(request: str) -> int:
    first, last = request.rpartition("bytes=")[2].split("-")
    return int(last) - int(first) + 1


def test_neighbours_in_a_bucket_share_a_request_that_wastes_little(reader, copied_receipts, s3):
    images = load_shards(f"s3://{copied_receipts.name}/shards/train", reader)[0].images
    expected = loose_manifest(copied_receipts).images
    assert isinstance(images, ShardImages)
    ranges = images.ranges([9, 0, 1, 2, 8])
    assert [len(together) for together in ranges] == [2, 3]
    assert ranges[0] == [8, 9], "needed first, and read in the order of the shard"
    s3.requests.clear()
    images.expect([9, 0, 1, 2, 8])
    for index in (9, 0, 1, 2, 8):
        assert images.read(index) == expected.read(index)
    assert len(s3.requests) == 2
    assert sum(map(num_bytes_of, s3.requests)) * 0.75 <= sum(len(expected.read(index)) for index in (9, 0, 1, 2, 8))
    sizes = [len(expected.read(index)) for index in range(14)]
    much_between = [index for index in range(12) if sizes[index + 1] > (sizes[index] + sizes[index + 2]) / 3]
    assert much_between
    assert all(images.ranges([index, index + 2]) == [[index], [index + 2]] for index in much_between)
    images.close()


def test_neighbours_share_a_request_although_their_annotations_are_larger(reader, copied_receipts, s3):
    images = copied_receipts / "small"
    images.mkdir()
    words = {f"{number:04d}": {"points": [[1 + number / 9, 1], [9, 1], [9, 9], [1, 9]]} for number in range(40)}
    for name in ("0.png", "1.png", "2.png"):
        Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(images / name)
    annotations = copied_receipts / "small.json"
    document = {"images": {name: {"img_w": 30, "img_h": 20, "words": words} for name in ("0.png", "1.png", "2.png")}}
    annotations.write_text(json.dumps(document))
    config = DatasetConfig(image_path=str(images), annotation_path=str(annotations))
    write_shards(load_manifest(config, max_megapixels=1)[0], copied_receipts / "shards/small")
    source = load_shards(f"s3://{copied_receipts.name}/shards/small", reader)[0].images
    assert isinstance(source, ShardImages)
    assert source.ranges([2, 0, 1]) == [[0, 1, 2]]
    s3.requests.clear()
    source.expect([2, 0, 1])
    assert [source.read(index) for index in range(3)] == [(images / f"{index}.png").read_bytes() for index in range(3)]
    assert len(s3.requests) == 1
    source.close()


def test_images_of_a_folder_are_read_each_by_itself(receipts):
    """A bad sector costs one image."""
    images = load_shards(str(receipts / "shards/train"))[0].images
    assert isinstance(images, ShardImages)
    assert images.ranges([1, 0, 2]) == [[1], [0], [2]]


def test_an_object_of_s3_with_other_bytes_than_its_index_says_is_refused(reader, copied_receipts, s3):
    """The object was replaced before the run by one of the same size."""
    shards = copied_receipts / "shards/train"
    index = map_columns(shards / "index.columns")
    tar = shards / index.values["shards"][index.columns["shard_numbers"][3]]["name"]
    content = bytearray(tar.read_bytes())
    content[index.columns["offsets"][3] + 2000] ^= 255
    tar.write_bytes(content)
    images = load_shards(f"s3://{copied_receipts.name}/shards/train", reader)[0].images
    with pytest.raises(
        StorageError,
        match=rf"^s3://copied/shards/train/{tar.name}: the bytes of {loose_manifest(copied_receipts).filenames[3]} do",
    ):
        images.read(3)
    assert images.read(0) == loose_manifest(copied_receipts).images.read(0)
