"""Shards as prepare_data writes them, and as other packages read them."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from nvidia.dali import fn, pipeline_def, types
from PIL import Image

from ocr.config import PrepareConfig
from ocr.datasets.audit import build_manifest, load_manifest
from ocr.datasets.column_file import map_columns
from ocr.datasets.manifest import Manifest
from ocr.datasets.schemas import DatasetConfig
from ocr.datasets.shards import writer as writer_module
from ocr.datasets.shards.images import load_shards
from ocr.datasets.shards.writer import PlacedShard, ShardWriter
from ocr.errors import InputError
from ocr.preparation.outcomes import Outcome, outcomes_in_threads


def loose(root: Path, split: str, folder: str | None = None) -> Manifest:
    images, annotations = root / (folder or f"images/{split}"), root / "jsons" / f"{split}.json"
    return load_manifest(DatasetConfig(image_path=str(images), annotation_path=str(annotations)), max_megapixels=100)[0]


def assert_same_manifest(found: Manifest, expected: Manifest) -> None:
    assert found.filenames == expected.filenames
    assert found.num_listed == expected.num_listed
    for name in ("sample_ids", "stored_sizes", "orientations"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        assert getattr(found, name).dtype == getattr(expected, name).dtype
    for name in ("vertices", "vertex_starts", "polygon_starts", "ignore"):
        np.testing.assert_array_equal(getattr(found.polygons, name), getattr(expected.polygons, name))
    assert [found.images.read(i) for i in range(len(found))] == [expected.images.read(i) for i in range(len(expected))]


def files_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Returns modification time and content of each file, without the time of the index, which every run writes."""
    times = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} | {"index.columns": 0}
    return {path.name: (times[path.name], path.read_bytes()) for path in folder.iterdir()}


def members_of(tar: Path) -> list[tarfile.TarInfo]:
    with tarfile.open(tar) as opened:
        return opened.getmembers()


def test_shards_hold_what_the_loose_files_hold(receipts):
    for split, folder in (("train", "images/train"), ("val", "images_val_canonical")):
        manifest, report = load_shards(str(receipts / "shards" / split))
        assert_same_manifest(manifest, loose(receipts, split, folder))
        assert (report.num_images, report.num_words) == (14, manifest.polygons.num_polygons)
        assert manifest.image_paths[0] == f"{split}-000000.tar: {manifest.filenames[0]}"
    assert len(list((receipts / "shards/train").glob("*.tar"))) > 2


@pytest.mark.parametrize("canonical", [True, False])
def test_shards_hold_turned_images_too(drawn, tmp_path, canonical, prepare):
    prepare(drawn, tmp_path / "out", canonical=canonical)
    for split in ("train", "val"):
        folder = "images_val_canonical" if canonical and split == "val" else f"images/{split}"
        manifest = load_shards(str(tmp_path / "out/shards" / split))[0]
        assert_same_manifest(manifest, loose(tmp_path / "out", split, folder))
        assert (set(manifest.orientations) == {1}) == canonical


def test_shards_beside_their_data_set_keep_its_sample_ids(drawn, tmp_path, prepare):
    """One image is unreadable: it is left out, and the keys of the others' random numbers stay the same."""
    root = shutil.copytree(drawn, tmp_path / "own")
    broken = root / "images/train" / loose(root, "train").filenames[1]
    broken.write_bytes(b"")
    prepare(root, root, canonical=False)
    expected = loose(root, "train")
    manifest = load_shards(str(root / "shards/train"))[0]
    assert manifest.num_listed == 10
    assert manifest.sample_ids.tolist() == [0, *range(2, 10)]
    assert_same_manifest(manifest, expected)
    assert [member.name for member in members_of(root / "shards/train/train-000000.tar")][2] == "000002.jpg"
    assert not (root / "prepared.json").exists()


def png_manifest(folder: Path, num_images: int) -> Manifest:
    folder.mkdir()
    for number in range(num_images):
        Image.fromarray(np.full((2, 3, 3), number, np.uint8)).save(folder / f"{number}.png")
    return build_manifest(folder, None, extensions=(".png",))[0]


def test_a_shard_is_laid_out_as_worked_by_hand(tmp_path):
    manifest = png_manifest(tmp_path / "images", 2)
    sizes = [len(manifest.images.read(index)) for index in range(2)]
    assert max(sizes) < 512
    writer = ShardWriter(manifest, tmp_path / "out", "val", shard_size=10**6)
    # Two samples of header, image, header, json: 512 bytes each; and an end of two blocks.
    assert writer.write_all() == [2 * 4 * 512 + 2 * 512]
    json_bytes = len(b'{"filename": "0.png", "orientation": 1, "img_w": 3, "img_h": 2, "words": {}}')
    assert (tmp_path / "out/val-000000.idx").read_text() == (
        f"v1.2 2\npng 512 {sizes[0]} 000000.png json 1536 {json_bytes} 000000.json\n"
        f"png 2560 {sizes[1]} 000001.png json 3584 {json_bytes} 000001.json\n"
    )
    columns = map_columns(tmp_path / "out/index.columns").columns
    assert columns["offsets"].tolist() == [512, 2560]
    assert columns["ends"].tolist() == [2048, 4096]
    members = members_of(tmp_path / "out/val-000000.tar")
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in members} == {(0, 0, 0, "", "")}


def test_a_shard_ends_with_the_image_that_reaches_its_size(tmp_path):
    manifest = png_manifest(tmp_path / "images", 5)
    writer = ShardWriter(manifest, tmp_path / "out", "val", shard_size=2 * 4 * 512)
    assert writer.write_all() == [2 * 4 * 512 + 1024] * 2 + [4 * 512 + 1024]
    assert_same_manifest(load_shards(str(tmp_path / "out"))[0], manifest)


def test_each_annotation_is_formatted_once_and_shards_are_laid_out_as_they_are_written(tmp_path, monkeypatch):
    manifest, formatted = png_manifest(tmp_path / "images", 40), []
    original = writer_module.upstage_document

    def counted(manifest: Manifest, indices: list[int], *, canonical: bool) -> dict:
        formatted.extend(indices)
        return original(manifest, indices, canonical=canonical)

    monkeypatch.setattr(writer_module, "upstage_document", counted)
    writer = ShardWriter(manifest, tmp_path / "out", "val", shard_size=2 * 4 * 512)
    assert formatted == []
    num_ahead = []

    def write(shard: PlacedShard) -> Outcome:
        num_ahead.append(len(formatted) - shard.samples[-1].index)
        return Outcome("made", writer.write(shard) or 0)

    assert len(list(outcomes_in_threads(write, writer.placed(), num_workers=1))) == 20
    assert formatted == list(range(40))
    assert max(num_ahead) <= 2 * 3  # the shard in work and two that wait, of two images each


def test_a_split_without_images_gives_an_empty_index(tmp_path):
    empty = png_manifest(tmp_path / "images", 1)
    none = Manifest(
        (), (), empty.sample_ids[:0], empty.stored_sizes[:0], empty.orientations[:0], empty.polygons.select([]), 1
    )
    assert ShardWriter(none, tmp_path / "out", "val", 10**6).write_all() == []
    assert len(load_shards(str(tmp_path / "out"))[0]) == 0


def test_dali_reads_shards_with_their_index(receipts):
    manifest = loose(receipts, "train")
    tars = sorted((receipts / "shards/train").glob("*.tar"))

    @pipeline_def(batch_size=len(manifest), num_threads=1, device_id=None, prefetch_queue_depth=1)
    def graph():
        encoded, annotation = fn.readers.webdataset(
            paths=[str(path) for path in tars],
            index_paths=[str(path.with_suffix(".idx")) for path in tars],
            ext=["jpg", "json"],
            missing_component_behavior="error",
        )
        return encoded, fn.decoders.image(encoded, output_type=types.RGB), annotation

    pipeline = graph()
    pipeline.build()
    encoded, decoded, annotations = pipeline.run()
    for index in range(len(manifest)):
        assert bytes(np.array(encoded[index])) == manifest.images.read(index)
        assert decoded[index].shape() == [*manifest.stored_sizes[index], 3]
        assert json.loads(bytes(np.array(annotations[index])))["filename"] == manifest.filenames[index]


def test_the_index_for_dali_equals_that_of_dalis_own_tool(receipts, tmp_path):
    creator = pytest.importorskip("wds2idx", reason="this DALI comes without wds2idx").IndexCreator
    tars = list((receipts / "shards/train").glob("*.tar"))
    assert len(tars) > 1
    for tar in tars:
        with creator(str(tar), str(tmp_path / "made.idx"), verbose=False) as made:
            made.create_index()
        assert (tmp_path / "made.idx").read_text() == tar.with_suffix(".idx").read_text()


def test_the_webdataset_package_reads_shards(receipts):
    webdataset = pytest.importorskip("webdataset", reason="needs uv sync --extra webdataset")
    manifest = loose(receipts, "train")
    tars = sorted(str(path) for path in (receipts / "shards/train").glob("*.tar"))
    samples = list(webdataset.WebDataset(tars, shardshuffle=False, empty_check=False))
    expected = json.loads((receipts / "jsons/train.json").read_text())["images"]
    assert [sample["__key__"] for sample in samples] == [f"{index:06d}" for index in range(len(manifest))]
    for index, sample in enumerate(samples):
        annotation = json.loads(sample["json"])
        assert sample["jpg"] == manifest.images.read(index)
        assert annotation["orientation"] == 1
        assert {key: annotation[key] for key in ("img_w", "img_h", "words")} == expected[annotation["filename"]]


def test_a_second_run_keeps_shards_and_repairs_a_damaged_one(drawn, tmp_path, prepare, caplog):
    caplog.set_level("INFO")
    out = tmp_path / "out"
    prepare(drawn, out, shard_size="30KB")
    before = {split: files_of(out / "shards" / split) for split in ("train", "val")}
    num_shards = len(list((out / "shards/train").glob("*.tar")))
    assert num_shards > 1
    caplog.clear()
    prepare(drawn, out, shard_size="30KB")
    assert {split: files_of(out / "shards" / split) for split in ("train", "val")} == before
    assert f"train shards: {num_shards} kept" in caplog.text

    damaged = out / "shards/train/train-000001.tar"
    content = bytearray(damaged.read_bytes())
    content[700] ^= 1
    damaged.write_bytes(content)
    caplog.clear()
    prepare(drawn, out, shard_size="30KB")
    assert f"train shards: {num_shards - 1} kept, 1 made" in caplog.text
    assert {name: content for name, (_, content) in files_of(out / "shards/train").items()} == {
        name: content for name, (_, content) in before["train"].items()
    }


def test_changed_shards_are_rewritten_and_surplus_ones_removed(drawn, tmp_path, prepare):
    root, out = shutil.copytree(drawn, tmp_path / "source"), tmp_path / "out"
    prepare(root, out, shard_size="30KB")
    num_shards = len(list((out / "shards/train").glob("*.tar")))
    annotations = root / "jsons/train.json"
    document = json.loads(annotations.read_text())
    name = next(name for name, entry in document["images"].items() if entry["words"])
    document["images"][name]["words"]["0001"]["points"][0][0] += 0.5
    annotations.write_text(json.dumps(document))
    prepare(root, out, shard_size="1MB")
    assert_same_manifest(load_shards(str(out / "shards/train"))[0], loose(out, "train"))
    assert (
        num_shards > len(list((out / "shards/train").glob("*.tar"))) == len(list((out / "shards/train").glob("*.idx")))
    )
    assert not list(out.rglob("*.part"))


def test_outdated_shards_lose_their_index(drawn, tmp_path, prepare, caplog):
    """The data set changes, and the second run writes no shards: the old ones lose their index."""
    for change in ("annotations", "image"):
        root, out = shutil.copytree(drawn, tmp_path / change), tmp_path / f"{change}_out"
        prepare(root, out)
        prepare(root, out, shards=False)
        assert (out / "shards/train/index.columns").is_file()
        if change == "annotations":
            document = json.loads((root / "jsons/train.json").read_text())
            next(entry for entry in document["images"].values() if entry["words"])["words"].popitem()
            (root / "jsons/train.json").write_text(json.dumps(document))
        else:
            image = root / "images/train" / loose(root, "train").filenames[0]
            image.write_bytes(image.read_bytes() + b"\0")
        caplog.clear()
        prepare(root, out, shards=False)
        assert not (out / "shards/train/index.columns").exists()
        assert (out / "shards/val/index.columns").exists()
        assert "train shards: outdated" in caplog.text
        prepare(root, out)
        assert_same_manifest(load_shards(str(out / "shards/train"))[0], loose(out, "train"))


def test_while_shards_change_there_is_no_index(tmp_path):
    manifest = png_manifest(tmp_path / "images", 2)
    ShardWriter(manifest, tmp_path / "out", "val", 10**6).write_all()
    Image.fromarray(np.full((2, 3, 3), 9, np.uint8)).save(tmp_path / "images/0.png")
    writer = ShardWriter(manifest, tmp_path / "out", "val", 10**6)
    for shard in writer.placed():
        writer.write(shard)
    assert not (tmp_path / "out/index.columns").exists()
    writer.finish()
    assert load_shards(str(tmp_path / "out"))[0].images.read(0) == (tmp_path / "images/0.png").read_bytes()


def test_an_image_that_disappears_is_named(tmp_path):
    manifest = png_manifest(tmp_path / "images", 2)
    writer = ShardWriter(manifest, tmp_path / "out", "val", 10**6)
    (shard,) = writer.placed()
    Path(manifest.image_paths[1]).unlink()
    with pytest.raises(InputError, match=r"1\.png: cannot be read: No such file"):
        writer.write(shard)
    assert list((tmp_path / "out").iterdir()) == []
    Path(manifest.image_paths[1]).write_bytes(b"other")
    with pytest.raises(InputError, match=r"1\.png: 5 bytes, but \d+ when the shards were laid out"):
        writer.write(shard)


@pytest.mark.parametrize("size", ["0", "-1", "many"])
def test_an_invalid_shard_size_is_refused(size):
    with pytest.raises(ValueError, match="shard_size"):
        PrepareConfig(output="out", shard_size=size)


def test_member_bytes_are_those_of_tarfile(tmp_path):
    """The standard library, told to leave out times and owners, packs the same members."""
    manifest = png_manifest(tmp_path / "images", 2)
    ShardWriter(manifest, tmp_path / "out", "val", 10**6).write_all()
    written = (tmp_path / "out/val-000000.tar").read_bytes()
    packed = io.BytesIO()
    with (
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as other,
        tarfile.open(fileobj=io.BytesIO(written)) as ours,
    ):
        for member in ours:
            plain = tarfile.TarInfo(member.name)
            plain.size = member.size
            other.addfile(plain, ours.extractfile(member))
    assert packed.getvalue()[: len(written)] == written
