"""The command prepare_data on small data sets."""

import dataclasses
import fcntl
import io
import json
import logging
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dali_pipelines.turbojpeg import decode_upright
from ocr.config import PrepareConfig
from ocr.datasets.audit import load_manifest
from ocr.datasets.audit_memo import MEMO_FOLDER
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.manifest import Manifest
from ocr.datasets.plan import SamplePlanner
from ocr.datasets.schemas import DatasetConfig
from ocr.errors import InputError
from ocr.preparation.maps import write_split_maps
from ocr.preparation.prepare import prepare_data
from ocr.preparation.report import SplitReport
from ocr.targets.maps import make_targets
from ocr.targets.offline import OfflineMaps
from tests.programs import Program
from tests.splits import split, splits

ROOT = Path(__file__).parents[3]

NUM_TRAIN, NUM_VAL = 10, 8
"""Images of the drawn set."""


@pytest.fixture
def source(drawn: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return shutil.copytree(drawn, tmp_path / "source")


def config_of(root: Path, output: Path, **values: Any) -> PrepareConfig:
    datasets = splits(root, ("train", "val", "test"))
    settings = {"pipeline": {"image_size": 128}, "targets": {"min_side": 2}, "num_workers": 2}
    return PrepareConfig.model_validate(
        {"dataset_base_path": str(root), "output": str(output), "datasets": datasets} | settings | values
    )


def prepare(root: Path, output: Path, **values: Any) -> dict[str, SplitReport]:
    return prepare_data(config_of(root, output, **values), output.parent / "run")


def prepared_split(output: Path, name: str, canonical: bool = True) -> DatasetConfig:
    folder = "images_val_canonical" if name == "val" and canonical else f"images/{name}"
    return DatasetConfig(image_path=str(output / folder), annotation_path=str(output / "jsons" / f"{name}.json"))


def manifest_of(config: DatasetConfig) -> Manifest:
    return load_manifest(config, max_megapixels=100)[0]


def counts(report: SplitReport) -> tuple[dict[str, int], dict[str, int] | None]:
    assert report.images is not None
    return report.images.counts, None if report.maps is None else report.maps.counts


def assert_same_annotations(found: Manifest, expected: Manifest) -> None:
    assert found.filenames == expected.filenames
    np.testing.assert_array_equal(found.original_sizes, expected.original_sizes)
    np.testing.assert_array_equal(found.polygons.vertices, expected.polygons.vertices)
    np.testing.assert_array_equal(found.polygons.vertex_starts, expected.polygons.vertex_starts)
    np.testing.assert_array_equal(found.polygons.polygon_starts, expected.polygons.polygon_starts)
    np.testing.assert_array_equal(found.polygons.ignore, expected.polygons.ignore)


def assert_same_pixels(found: Manifest, expected: Manifest, turned_error: float) -> None:
    for index, orientation in enumerate(expected.orientations):
        one = decode_upright(Path(found.image_paths[index]).read_bytes(), int(found.orientations[index]))
        other = decode_upright(Path(expected.image_paths[index]).read_bytes(), int(orientation))
        assert one.shape == other.shape
        error = np.abs(one.astype(int) - other).mean()
        assert error <= (0 if orientation == 1 else turned_error), expected.filenames[index]


def files_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and MEMO_FOLDER not in path.parts
    }


def test_prepared_data_has_the_annotations_and_pixels_of_its_source(source, tmp_path):
    before = files_of(source)
    output = tmp_path / "out"
    reports = prepare(source, output)
    assert list(reports) == ["train", "val"]
    orientations = []
    for name in reports:
        expected = manifest_of(DatasetConfig.model_validate(split(source, name)["config"]))
        found = manifest_of(prepared_split(output, name))
        assert set(found.orientations) == {1}
        assert_same_annotations(found, expected)
        assert_same_pixels(found, expected, turned_error=1.0)
        orientations += list(expected.orientations)
        num_turned = int((expected.orientations > 1).sum())
        assert counts(reports[name])[0] == {"copied": len(expected) - num_turned, "encoded": num_turned}
    assert 3 < np.count_nonzero(np.array(orientations) > 1) < len(orientations)
    assert files_of(source) == before
    assert not list(output.rglob("*.part"))


def test_copied_files_are_equal_to_the_byte(source, tmp_path):
    prepare(source, tmp_path / "out", maps=False)
    manifest = manifest_of(DatasetConfig.model_validate(split(source, "train")["config"]))
    upright = [name for name, turn in zip(manifest.filenames, manifest.orientations, strict=True) if turn == 1]
    assert upright
    for name in upright:
        copy = tmp_path / "out/images/train" / name
        content, mtime_ns = copy.read_bytes(), copy.stat().st_mtime_ns
        assert content == (source / "images/train" / name).read_bytes()
        copy.write_bytes(content[:-100])
        os.utime(copy, ns=(mtime_ns, mtime_ns))
    images = prepare(source, tmp_path / "out", maps=False)["train"].images
    assert images is not None
    assert images.counts == {"copied": len(upright), "kept": len(manifest) - len(upright)}


def test_without_canonical_the_files_equal_the_source(source, tmp_path):
    output = tmp_path / "out"
    reports = prepare(source, output, canonical=False)
    assert counts(reports["val"]) == ({"copied": NUM_VAL}, {"made": NUM_VAL})
    assert not (output / "images_val_canonical").exists()
    for name in reports:
        expected = manifest_of(DatasetConfig.model_validate(split(source, name)["config"]))
        found = manifest_of(prepared_split(output, name, canonical=False))
        np.testing.assert_array_equal(found.orientations, expected.orientations)
        assert_same_annotations(found, expected)
        assert_same_pixels(found, expected, turned_error=0)


def test_all_eight_orientations_become_one_picture(odd_jpegs, tmp_path):
    manifest = json.loads((odd_jpegs / "manifest.json").read_text())
    files = manifest["files"] if isinstance(manifest, dict) else manifest
    images = {}
    (tmp_path / "source").mkdir()
    for entry in files:
        name = Path(entry["file"]).name
        if name.startswith("exif_"):
            path = next(odd_jpegs.rglob(name))
            shutil.copy(path, tmp_path / "source" / name)
            images[name] = {
                "words": {
                    f"{number:04d}": {"points": points_of(word)}
                    for number, word in enumerate(entry["words_in_stored_pixels"])
                }
            }
    assert len(images) == 8
    (tmp_path / "val.json").write_text(json.dumps({"images": images}))
    dataset = {"config": {"image_path": str(tmp_path / "source"), "annotation_path": str(tmp_path / "val.json")}}
    config = PrepareConfig.model_validate(
        {"output": str(tmp_path / "out"), "datasets": {"val_dataset": dataset}, "maps": False}
    )
    report = prepare_data(config, tmp_path / "run")["val"]
    assert counts(report)[0] == {"copied": 1, "encoded": 7}
    found = manifest_of(prepared_split(tmp_path / "out", "val"))
    expected = manifest_of(DatasetConfig.model_validate(dataset["config"]))
    assert_same_annotations(found, expected)
    assert_same_pixels(found, expected, turned_error=1.0)
    first = found.polygons.polygons_of(0)
    for place in range(1, 8):
        for one, other in zip(found.polygons.polygons_of(place), first, strict=True):
            assert {tuple(point) for point in one.tolist()} == {tuple(point) for point in other.tolist()}


def points_of(word: Any) -> list[list[float]]:
    points = word["points"] if isinstance(word, dict) else word
    return [[float(x), float(y)] for x, y in points]


def test_a_png_among_the_files_is_turned_and_its_polygon_with_it(tmp_path):
    (tmp_path / "source").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise: stored (x, y) lands at (H - y, x)
    Image.new("RGB", (40, 30), "white").save(tmp_path / "source/a.png", exif=exif)
    points = [[1, 2], [9, 2], [9, 8], [1, 8]]
    words = {"w": {"points": points, "ignore": True, "transcription": "one"}}
    (tmp_path / "val.json").write_text(json.dumps({"images": {"a.png": {"img_w": 40, "img_h": 30, "words": words}}}))
    dataset = {"config": {"image_path": str(tmp_path / "source"), "annotation_path": str(tmp_path / "val.json")}}
    config = PrepareConfig.model_validate({"output": str(tmp_path / "out"), "datasets": {"val_dataset": dataset}})
    report = prepare_data(config, tmp_path / "run")["val"]
    assert counts(report) == ({"turned": 1}, {"made": 1})
    document = json.loads((tmp_path / "out/jsons/val.json").read_text())
    word = {"points": [[28.0, 1.0], [28.0, 9.0], [22.0, 9.0], [22.0, 1.0]], "illegibility": True}
    assert document == {"images": {"a.png": {"img_w": 30, "img_h": 40, "words": {"0001": word}}}}


def test_two_images_that_would_be_written_to_one_name_are_refused(tmp_path):
    (tmp_path / "source").mkdir()
    for name in ("a.tif", "a.tif.png"):
        Image.new("RGB", (40, 30)).save(tmp_path / "source" / name)
    (tmp_path / "val.json").write_text('{"images": {"a.tif": {}, "a.tif.png": {}}}')
    dataset = {"config": {"image_path": str(tmp_path / "source"), "annotation_path": str(tmp_path / "val.json")}}
    config = PrepareConfig.model_validate({"output": str(tmp_path / "out"), "datasets": {"val_dataset": dataset}})
    with pytest.raises(InputError, match=r"a\.tif\.png: found two images that would be written to this name"):
        prepare_data(config, tmp_path / "run")
    assert not (tmp_path / "out").exists()


def test_offline_maps_are_those_of_the_prepared_images(source, tmp_path):
    output = tmp_path / "out"
    reports = prepare(source, output)
    config = config_of(source, output)
    dataset_config = prepared_split(output, "val")
    assert reports["train"].maps is None
    assert reports["val"].maps is not None
    assert reports["val"].maps.folder == str(dataset_config.maps_dir)
    planner = SamplePlanner(config.pipeline, training=False, seed=0)
    dataset = ValidatedOCRDataset(dataset_config, planner, config.targets)
    samples = dataset.planned(range(len(dataset)))
    polygons_input = dataset.planner.input_polygons(dataset.manifest, samples)
    maps = OfflineMaps(dataset_config.maps_dir, dataset.manifest.filenames, config.targets)
    found = maps.targets(range(len(dataset)), polygons_input, (128, 128))
    assert (maps.hits, maps.fallbacks) == (NUM_VAL, 0)
    expected = make_targets(polygons_input, (128, 128), config.targets)
    assert expected.shrink_map.sum() > 100
    assert (found.shrink_map != expected.shrink_map).sum() == 0
    assert (found.thresh_map - expected.thresh_map).abs().max() <= 2**-12


def test_a_second_run_keeps_everything(source, tmp_path):
    output = tmp_path / "out"
    prepare(source, output)
    before = files_of(output)
    reports = prepare(source, output)
    assert counts(reports["train"]) == ({"kept": NUM_TRAIN}, None)
    assert counts(reports["val"]) == ({"kept": NUM_VAL}, {"kept": NUM_VAL})
    after = files_of(output)
    assert {name: content for name, (_, content) in after.items() if name != "prepared.json"} == {
        name: content for name, (_, content) in before.items() if name != "prepared.json"
    }
    assert {name: mtime for name, (mtime, _) in after.items() if "images" in name} == {
        name: mtime for name, (mtime, _) in before.items() if "images" in name
    }


def test_only_missing_and_changed_files_are_rewritten(source, tmp_path):
    output = tmp_path / "out"
    prepare(source, output)
    names = sorted(path.name for path in (output / "images_val_canonical").iterdir())
    (output / "images_val_canonical" / names[0]).unlink()
    (output / "images_val_canonical" / names[1]).write_bytes(b"cut")
    os.utime(source / "images/val" / names[2])
    (output / "images_val_canonical_maps" / f"{names[3]}.npz").write_bytes(b"cut")
    reports = prepare(source, output)
    images, maps = counts(reports["val"])
    assert images["kept"] == NUM_VAL - 3
    assert maps == {"kept": NUM_VAL - 1, "made": 1}
    assert counts(reports["train"])[0] == {"kept": NUM_TRAIN}
    assert_same_annotations(
        manifest_of(prepared_split(output, "val")),
        manifest_of(DatasetConfig.model_validate(split(source, "val")["config"])),
    )


@pytest.mark.parametrize("change", [{"pipeline": {"image_size": 160}}, {"targets": {"shrink_ratio": 0.5}}])
def test_stale_maps_are_rewritten(source, tmp_path, change):
    output = tmp_path / "out"
    prepare(source, output)
    reports = prepare(source, output, **change)
    assert counts(reports["val"]) == ({"kept": NUM_VAL}, {"made": NUM_VAL})
    assert counts(prepare(source, output, **change)["val"]) == ({"kept": NUM_VAL}, {"kept": NUM_VAL})


def test_maps_of_one_changed_annotation_are_rewritten(source, tmp_path):
    output = tmp_path / "out"
    prepare(source, output)
    annotation_path = source / "jsons/val.json"
    document = json.loads(annotation_path.read_text())
    entry = next(iter(document["images"].values()))
    next(iter(entry["words"].values()))["points"][0][0] += 0.5
    annotation_path.write_text(json.dumps(document))
    assert counts(prepare(source, output)["val"]) == ({"kept": NUM_VAL}, {"kept": NUM_VAL - 1, "made": 1})
    assert_same_annotations(
        manifest_of(prepared_split(output, "val")),
        manifest_of(DatasetConfig.model_validate(split(source, "val")["config"])),
    )


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), "white").save(file, "JPEG")
    return file.getvalue()


def stop_once_there_is(
    pattern: str, output: Path, number: signal.Signals, config: PrepareConfig
) -> subprocess.CompletedProcess[str]:
    """Prepares data in a process of its own, sends it the signal once a file matches the pattern, and returns the ended process.

    It is no fork of this process: threads that other tests left running here (OpenMP, DALI) would hold their locks forever in it.
    """
    script = output.parent / "prepare.py"
    script.write_text(
        "import sys; from pathlib import Path; from ocr.config import PrepareConfig; "
        "from ocr.preparation.prepare import prepare_data; "
        "prepare_data(PrepareConfig.model_validate_json(sys.argv[1]), Path(sys.argv[2]))"
    )
    program = Program(script, config.model_dump_json(), str(output.parent / "run"), cwd=ROOT)
    while program.returncode is None and not any(output.glob(pattern)):
        time.sleep(0.001)
    program.send_signal(number)
    return program.wait()


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGKILL, -9), (signal.SIGINT, 1)])
def test_a_run_stopped_among_the_images_leaves_no_annotations_and_can_continue(source, tmp_path, number, exit_code):
    (source / "images/val/0.jpg").write_bytes(jpeg())
    for copy in range(1, 1000):
        os.link(source / "images/val/0.jpg", source / f"images/val/{copy}.jpg")
    (source / "jsons/val.json").write_text(json.dumps({"images": {f"{copy}.jpg": {} for copy in range(1000)}}))
    output = tmp_path / "out"
    settings: dict[str, Any] = {"splits": ["val"], "maps": False, "num_workers": 1}
    config = config_of(source, output, **settings)
    stopped = stop_once_there_is("images_val_canonical/*.jpg", output, number, config)
    assert stopped.returncode == exit_code
    if number == signal.SIGINT:
        assert "run the same command to continue" in stopped.stderr
        assert not list(output.rglob("*.part"))
    assert not (output / "jsons/val.json").exists()
    assert json.loads((output / "prepared.json").read_text())["is_complete"] is False
    num_written = len(list(output.glob("images_val_canonical/*.jpg")))
    assert 0 < num_written < 1000
    assert counts(prepare(source, output, **settings)["val"])[0]["kept"] == num_written
    assert json.loads((output / "prepared.json").read_text())["is_complete"] is True
    assert len(manifest_of(prepared_split(output, "val"))) == 1000
    assert not list(output.rglob("*.part"))


def test_a_run_killed_among_the_maps_leaves_complete_ones(source, tmp_path):
    output = tmp_path / "out"
    settings: dict[str, Any] = {"splits": ["val"], "num_workers": 1, "pipeline": {"image_size": 1600}}
    config = config_of(source, output, **settings)
    assert stop_once_there_is("images_val_canonical_maps/*.npz", output, signal.SIGKILL, config).returncode == -9
    num_made = len(list(output.rglob("*.npz")))
    assert 0 < num_made < NUM_VAL
    assert counts(prepare(source, output, **settings)["val"]) == (
        {"kept": NUM_VAL},
        {"kept": num_made, "made": NUM_VAL - num_made},
    )
    assert not list(output.rglob("*.part"))


def test_annotations_are_removed_before_their_images_change(source, tmp_path):
    output = tmp_path / "out"
    prepare(source, output, maps=False)
    (output / "images_val_canonical/val_00002.jpg").unlink()
    (output / "images_val_canonical/val_00002.jpg/in the way").mkdir(parents=True)
    with pytest.raises(InputError, match=r"val_00002\.jpg.*: cannot be written: .*run the same command to continue"):
        prepare(source, output, maps=False)
    assert not (output / "jsons/val.json").exists()
    assert (output / "jsons/train.json").exists()


def test_one_bad_file_does_not_lose_the_rest(source, tmp_path):
    bad, gone, *_ = sorted((source / "images/train").iterdir())
    bad.write_bytes(bad.read_bytes()[:600])
    gone.unlink()
    output = tmp_path / "out"
    report = prepare(source, output)["train"]
    assert (report.num_listed, report.num_usable) == (NUM_TRAIN, NUM_TRAIN - 2)
    assert report.findings["missing"] == 1
    assert report.images is not None
    assert sum(report.images.counts.values()) == NUM_TRAIN - 2
    names = {bad.name, gone.name}
    assert not names & set(json.loads((output / "jsons/train.json").read_text())["images"])
    findings = json.loads((tmp_path / "run/audit_train.json").read_text())["findings"]
    assert {finding["image"] for finding in findings if finding["severity"] == "image"} == names
    assert len(manifest_of(prepared_split(output, "train"))) == NUM_TRAIN - 2


def test_a_file_that_cannot_be_turned_is_named_and_left_out(source, tmp_path, caplog):
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(4).integers(0, 256, (30, 40, 3), np.uint8)).save(file, "PNG", exif=exif)
    damaged = bytearray(file.getvalue())
    damaged[len(damaged) // 2] ^= 255
    (source / "images/val/bad.png").write_bytes(damaged)
    path = source / "jsons/val.json"
    document = json.loads(path.read_text())
    document["images"] = {"bad.png": {"words": {}}} | document["images"]
    path.write_text(json.dumps(document))
    output = tmp_path / "out"
    datasets = {"val_dataset": split(source, "val", check_pixels=False)}  # the audit would have found it
    with caplog.at_level(logging.WARNING, "ocr.preparation"):
        report = prepare(source, output, datasets=datasets)["val"]
    assert report.images is not None
    assert report.maps is not None
    assert list(report.images.failed) == list(report.maps.failed) == ["bad.png"]
    assert report.images.counts["failed"] == report.maps.counts["failed"] == 1
    assert report.maps.counts["made"] == NUM_VAL
    assert "val images: failed: bad.png" in caplog.text
    assert len(manifest_of(prepared_split(output, "val"))) == NUM_VAL


def test_bad_annotations_of_all_splits_are_reported_before_anything_is_written(source, tmp_path):
    for name in ("train", "val"):
        path = source / "jsons" / f"{name}.json"
        document = json.loads(path.read_text())
        document["images"][sorted(document["images"])[0]]["words"]["bad"] = {"points": [[1, 1], [2, 2]]}
        path.write_text(json.dumps(document))
    output = tmp_path / "out"
    with pytest.raises(InputError, match=r"(?s)train: .*too_few_points.*val: .*on_bad_sample=skip"):
        prepare(source, output)
    assert not output.exists()
    reports = prepare(source, output, on_bad_sample="skip")
    assert [report.num_skipped_words for report in reports.values()] == [1, 1]
    assert len(manifest_of(prepared_split(output, "val"))) == NUM_VAL


def test_names_that_lead_outside_the_folder_are_not_followed(source, tmp_path):
    shutil.copytree(source / "images/val", source / "images/elsewhere")
    path = source / "jsons/val.json"
    document = json.loads(path.read_text())
    first = sorted(document["images"])[0]
    document["images"] = {
        f"../elsewhere/{name}" if name == first else name: e for name, e in document["images"].items()
    }
    path.write_text(json.dumps(document))
    output = tmp_path / "out"
    with pytest.raises(InputError, match=r"elsewhere.*: bad_name: found a path that leads out of its folder"):
        prepare(source, output, splits=["val"])
    assert not output.exists()
    report = prepare(source, output, splits=["val"], on_bad_sample="skip")["val"]
    assert report.findings == {"bad_name": 1}
    assert counts(report) == ({"copied": NUM_VAL // 2 - 1, "encoded": NUM_VAL // 2}, {"made": NUM_VAL - 1})
    assert not (output / "elsewhere").exists()
    assert len(list(output.rglob("*.npz"))) == NUM_VAL - 1


@pytest.mark.parametrize("name", ["../a.jpg", "linked/a.jpg"])
def test_maps_are_never_written_outside_their_folder(name, drawn, tmp_path):
    manifest = manifest_of(DatasetConfig.model_validate(split(drawn, "val")["config"]))
    maps, outside = tmp_path / "maps", tmp_path / "outside"
    for folder in (maps, outside):
        folder.mkdir()
    (maps / "linked").symlink_to(outside)
    named = dataclasses.replace(manifest, filenames=(name, *manifest.filenames[1:]))
    with pytest.raises(InputError, match="refused to write"):
        write_split_maps(named, [0], maps, config_of(drawn, tmp_path / "out"), 1, "val")
    assert not list(tmp_path.rglob("*.npz"))


def test_icdar_text_files_become_upstage_json(icdar15, tmp_path):
    document = json.loads((icdar15 / "jsons/val.json").read_text())["images"]
    names = sorted(document)[:4]
    images, texts = tmp_path / "images", tmp_path / "texts"
    images.mkdir()
    texts.mkdir()
    for name in names:
        shutil.copy(icdar15 / "images/val" / name, images / name)
        lines = [
            ",".join(str(round(value)) for point in word["points"] for value in point)
            + (",###" if word.get("illegibility") else ",text")
            for word in document[name]["words"].values()
        ]
        (texts / f"gt_{Path(name).stem}.txt").write_text("\ufeff" + "\r\n".join(lines))
    dataset = {"config": {"image_path": str(images), "annotation_path": str(texts), "on_bad_sample": "skip"}}
    config = PrepareConfig.model_validate(
        {"output": str(tmp_path / "out"), "datasets": {"test_dataset": dataset}, "pipeline": {"image_size": 320}}
    )
    report = prepare_data(config, tmp_path / "run")["test"]
    assert counts(report) == ({"copied": 4}, {"made": 4})
    found = manifest_of(prepared_split(tmp_path / "out", "test"))
    assert_same_annotations(found, manifest_of(DatasetConfig.model_validate(dataset["config"])))
    assert found.polygons.num_polygons > 10
    assert 0 < found.polygons.ignore.sum() < found.polygons.num_polygons


def test_maps_can_be_added_beside_the_images(source, tmp_path):
    before = files_of(source)
    reports = prepare(source, source, canonical=False)
    after = files_of(source)
    assert {name: content for name, content in after.items() if name in before} == before
    added = sorted(set(after) - set(before))
    assert len(added) == NUM_VAL
    assert all(name.startswith("images/val_maps/") and name.endswith(".npz") for name in added)
    assert reports["val"].images is None
    assert reports["val"].annotations is None
    assert prepare(source, source, canonical=False)["val"].maps.counts == {"kept": NUM_VAL}  # type: ignore[union-attr]


def test_foreign_folders_are_not_written_to(source, tmp_path):
    def assert_refused(output: Path, message: str, **values: Any) -> None:
        before = files_of(tmp_path)
        with pytest.raises(InputError, match=message):
            prepare_data(config_of(source, output, **values), tmp_path / "run")
        assert files_of(tmp_path) == before

    assert_refused(source, "is the data set itself")
    assert_refused(source, "is the data set itself", canonical=False, maps=False)
    assert_refused(source / "images/train/out", "lies in the data set's own")
    assert_refused(tmp_path, "is not empty and has no prepared.json")
    assert_refused(source / "jsons/val.json", "lies in the data set's own")
    (tmp_path / "file").write_text("")
    assert_refused(tmp_path / "file", "is a file; a folder is needed")
    assert_refused(tmp_path / "file/out", "found a file, .*/file, expected a folder; choose another place")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/prepared.json").write_text('{"of": "another program"}')
    assert_refused(tmp_path / "other", "is not empty and has no prepared.json of an earlier run")


def test_a_prepared_folder_takes_no_other_data_set_or_frame(source, drawn, tmp_path):
    output = tmp_path / "out"
    prepare(source, output, splits=["val"])
    with pytest.raises(InputError, match="holds val as prepared from"):
        prepare(drawn, output, splits=["val"])
    with pytest.raises(InputError, match="was prepared with canonical=true"):
        prepare(source, output, splits=["val"], canonical=False)
    prepare(source, output, splits=["train"])
    marker = json.loads((output / "prepared.json").read_text())
    assert set(marker["sources"]) == set(marker["splits"]) == {"train", "val"}


def test_two_runs_do_not_share_a_folder(source, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    descriptor = os.open(output, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(InputError, match="another run is preparing data in this folder"):
        prepare(source, output)
    os.close(descriptor)
    prepare(source, output)


def test_missing_splits_are_left_out_unless_named(source, tmp_path):
    shutil.rmtree(source / "images/train")
    assert list(prepare(source, tmp_path / "out")) == ["val"]
    with pytest.raises(FileNotFoundError, match="there is no such image folder"):
        prepare(source, tmp_path / "out", splits=["train"])
    with pytest.raises(InputError, match="there is no split to prepare"):
        prepare(tmp_path / "nowhere", tmp_path / "out2")


def test_annotations_are_needed(source, tmp_path):
    datasets = {"val_dataset": split(source, "val", annotation_path=None)}
    with pytest.raises(InputError, match=r"datasets\.val_dataset\.config\.annotation_path is not set"):
        prepare(source, tmp_path / "out", datasets=datasets)


@pytest.mark.parametrize("name", ["a.jpg", "x" * 251 + ".jpg"], ids=["short name", "longest name"])
def test_a_data_set_of_images_without_text_is_prepared(tmp_path, name):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / name).write_bytes(jpeg())
    (tmp_path / "val.json").write_text(json.dumps({"images": {name: {}}}))
    dataset = {"config": {"image_path": str(tmp_path / "source"), "annotation_path": str(tmp_path / "val.json")}}
    config = PrepareConfig.model_validate({"output": str(tmp_path / "out"), "datasets": {"val_dataset": dataset}})
    assert counts(prepare_data(config, tmp_path / "run")["val"]) == ({"copied": 1}, {"made": 1})
    document = json.loads((tmp_path / "out/jsons/val.json").read_text())
    assert document == {"images": {name: {"img_w": 40, "img_h": 30, "words": {}}}}
