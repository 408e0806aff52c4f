"""Shards in a local folder and on S3: what is read, and what the errors say."""

import multiprocessing
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ocr.datasets.shards.images import ShardImages, load_shards
from ocr.errors import InputError, StorageError


def s3_url(root: Path) -> str:
    return f"s3://{root.name}/shards/train"


def test_parent_and_forked_processes_read_from_s3_in_turn(copied_receipts, s3):
    """Connections and event loop do not survive a fork: each process opens its own."""
    manifest = load_shards(s3_url(copied_receipts))[0]
    expected = [(copied_receipts / "images/train" / name).read_bytes() for name in manifest.filenames]
    indices = range(len(manifest))
    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(manifest.images.read, indices)) == expected
        with multiprocessing.get_context("fork").Pool(2) as processes:
            assert processes.map(manifest.images.read, indices) == expected
        assert list(threads.map(manifest.images.read, indices)) == expected


def test_shards_that_differ_from_their_index_are_named_before_the_run(copied_receipts, tmp_path):
    shards = copied_receipts / "shards/train"
    with pytest.raises(
        StorageError, match=r"none/index\.json: there is no such file; write the shards with .*shards=true.*loader=dali"
    ):
        load_shards(str(tmp_path / "none"))
    tar = shards / "train-000001.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[:-600])
    with pytest.raises(
        StorageError,
        match=rf"train-000001\.tar: {len(whole) - 600} bytes; its index says {len(whole)}: the shard is cut",
    ):
        load_shards(str(shards))
    tar.unlink()
    with pytest.raises(StorageError, match=r"train-000001\.tar: there is no such file"):
        load_shards(str(shards))


@pytest.mark.parametrize(("package", "extra"), [("webdataset", "webdataset"), ("s3fs", "s3")])
def test_a_missing_extra_is_named_with_its_command(package, extra, receipts, monkeypatch):
    for name in [package, *(name for name in sys.modules if name.startswith(f"{package}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    url = "s3://bucket/train" if package == "s3fs" else str(receipts / "shards/train")
    with pytest.raises(InputError, match=f"uv sync --extra {extra}"):
        load_shards(url, "webdataset" if package == "webdataset" else "dali")


def test_a_request_to_s3_whose_answer_breaks_off_is_repeated(copied_receipts, s3):
    manifest = load_shards(s3_url(copied_receipts))[0]
    s3.num_cuts = 1
    assert manifest.images.read(3) == (copied_receipts / "images/train" / manifest.filenames[3]).read_bytes()
    s3.num_cuts = 2
    with pytest.raises(StorageError, match=r"s3://copied/.*\.tar: cannot be read: .*AWS_ENDPOINT_URL=http://127"):
        manifest.images.read(3)


def test_a_server_error_is_tried_again_and_names_object_and_range(copied_receipts, s3, aws):
    aws.delenv("AWS_MAX_ATTEMPTS")
    manifest = load_shards(s3_url(copied_receipts))[0]
    s3.num_errors = 2
    assert manifest.images.read(3) == (copied_receipts / "images/train" / manifest.filenames[3]).read_bytes()
    s3.requests.clear()
    s3.num_errors = 1000
    with pytest.raises(
        StorageError, match=r"s3://copied/shards/train/train-00000\d\.tar: cannot be read: .*\(bytes \d+-\d+\)"
    ):
        manifest.images.read(3)
    assert 3 <= len(s3.requests) <= 12


def test_a_whole_answer_that_is_too_short_is_asked_for_again_and_then_named(copied_receipts, s3):
    manifest = load_shards(s3_url(copied_receipts))[0]
    s3.num_short = 2
    assert manifest.images.read(3) == (copied_receipts / "images/train" / manifest.filenames[3]).read_bytes()
    s3.num_short = 3
    with pytest.raises(
        StorageError, match=r"\.tar: \d+ bytes for the range bytes \d+-\d+; this storage cuts its answers"
    ):
        manifest.images.read(3)


@pytest.mark.parametrize("num_connections", [1, 3])
def test_no_more_requests_run_at_once_than_connections_are_set(num_connections, copied_receipts, s3):
    images = load_shards(s3_url(copied_receipts), "dali", None, num_connections)[0].images
    assert images.num_threads == num_connections
    s3.delay, s3.most_at_once = 0.05, 0
    images.expect([0, 2, 4, 6, 8, 10, 12])  # with a whole image between, which is not read for nothing
    assert all(images.read(index) for index in range(0, 14, 2))
    assert s3.most_at_once == num_connections
    assert isinstance(images, ShardImages)
    images.close()


def test_errors_of_s3_say_what_to_do(copied_receipts, s3, aws):
    url, shards = s3_url(copied_receipts), copied_receipts / "shards/train"
    with pytest.raises(
        StorageError,
        match=r"s3://nowhere/train/index\.json: there is no such file \[AWS_ENDPOINT_URL=http://127.*shards=true",
    ):
        load_shards("s3://nowhere/train")
    with pytest.raises(InputError, match="no bucket; expected s3://BUCKET/PREFIX"):
        load_shards("s3://")
    manifest = load_shards(url)[0]
    for tar in shards.glob("*.tar"):
        content = tar.read_bytes()
        tar.write_bytes(content[:600] + bytes(100) + content[700:])
    with pytest.raises(StorageError, match=r"s3://copied/.*\.tar: the bytes of .* do not match index\.json"):
        manifest.images.read(0)
    tar.write_bytes(tar.read_bytes()[:-512])
    with pytest.raises(
        StorageError,
        match=rf"s3://copied/shards/train/{tar.name}: \d+ bytes; its index says \d+: the shard is cut short",
    ):
        load_shards(url)
    tar.unlink()
    with pytest.raises(StorageError, match=rf"s3://copied/shards/train/{tar.name}: there is no such file"):
        load_shards(url)
    s3.refuses = True
    with pytest.raises(
        StorageError,
        match=r"access is refused; check the credentials, and that the file exists .*AWS_ACCESS_KEY_ID",
    ):
        load_shards(url)
    aws.delenv("AWS_ACCESS_KEY_ID")
    aws.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StorageError, match=r"Unable to locate credentials .*AWS_ACCESS_KEY_ID and AWS_SECRET"):
        load_shards(url)
    aws.setenv("AWS_ACCESS_KEY_ID", "key")
    with pytest.raises(StorageError, match=r"Partial credentials .*AWS_SECRET_ACCESS_KEY .*AWS_ACCESS_KEY_ID and AWS"):
        load_shards(url)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("AWS_ENDPOINT_URL", "localhost:9000", "Invalid endpoint: localhost:9000"),
        ("AWS_PROFILE", "nope", r"profile \(nope\) could not be found"),
        ("AWS_RETRY_MODE", "never", "must be one of"),
    ],
)
def test_wrong_aws_settings_are_named(name, value, said, aws):
    aws.setenv(name, value)
    with pytest.raises(StorageError, match=rf"^s3://bucket/train/index\.json: cannot be read: .*{said}.* \[AWS_"):
        load_shards("s3://bucket/train")


def test_an_unreachable_endpoint_is_named(aws):
    aws.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(
        StorageError, match=r"s3://bucket/train/index\.json: cannot be read: .*http://127\.0\.0\.1:9.*AWS_ENDPOINT_URL="
    ):
        load_shards("s3://bucket/train")
