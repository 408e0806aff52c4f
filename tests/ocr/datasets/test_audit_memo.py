"""The result of an audit is found again while nothing has changed, and never otherwise."""

import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ocr.datasets import audit_memo
from ocr.datasets.audit import load_manifest
from ocr.datasets.audit_memo import MEMO_FOLDER
from ocr.datasets.audit_report import AuditReport, BadDataError
from ocr.datasets.column_file import map_columns, write_columns
from ocr.datasets.manifest import COLUMNS, Manifest
from ocr.datasets.names import Names
from ocr.datasets.schemas import DatasetConfig
from ocr.errors import InputError
from tests.ocr.datasets.audits import SQUARE, encoded

ROOT = Path(__file__).resolve().parents[3]
TAKEN = "unchanged since its audit"


@pytest.fixture
def config(tmp_path: Path) -> DatasetConfig:
    """Three images, one of them turned, and one that is listed but not there."""
    images = tmp_path / "images"
    (images / "sub").mkdir(parents=True)
    (images / "a.jpg").write_bytes(encoded())
    (images / "영수증.jpg").write_bytes(encoded(40, 100, orientation=6))
    (images / "sub" / "c.png").write_bytes(encoded(image_format="PNG"))
    names = ("a.jpg", "영수증.jpg", "gone.jpg", "sub/c.png")
    write_annotations(tmp_path / "train.json", {name: [SQUARE, SQUARE[:3]] for name in names})
    time.sleep(0.03)  # what has only just changed is looked at again
    return DatasetConfig(
        image_path=str(images), annotation_path=str(tmp_path / "train.json"), audit_memo=str(tmp_path / "memo")
    )


def write_annotations(path: Path, words: dict[str, list[object]], end: str = "") -> None:
    images = {
        name: {"words": {f"{i:04d}": {"points": points} for i, points in enumerate(polygons)}}
        for name, polygons in words.items()
    }
    path.write_text(json.dumps({"images": images}) + end, encoding="utf-8")


def load(config: DatasetConfig) -> tuple[Manifest, AuditReport]:
    return load_manifest(config, max_megapixels=100)


def assert_same(found: Manifest, expected: Manifest) -> None:
    assert found.image_paths == expected.image_paths
    assert found.filenames == expected.filenames
    assert found.num_listed == expected.num_listed
    for name in ("sample_ids", "stored_sizes", "orientations", "is_converted"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    for name in ("vertices", "vertex_starts", "polygon_starts", "ignore"):
        np.testing.assert_array_equal(getattr(found.polygons, name), getattr(expected.polygons, name))


def test_each_start_warns_of_annotations_of_upright_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (60, 40)).save(images / "a.jpg")
    shape = {"label": "text", "shape_type": "rectangle", "points": [[10, 10], [50, 30]]}
    document = {"version": "5.0", "imagePath": "a.jpg", "imageWidth": 60, "imageHeight": 40, "shapes": [shape]}
    (images / "a.json").write_text(json.dumps(document))
    config = DatasetConfig(image_path=str(images), annotation_path=str(images), audit_memo=str(tmp_path / "memos"))
    for _ in range(2):
        caplog.clear()
        load(config)
        assert "labelme shows images upright; if some have an EXIF rotation" in caplog.text


def memo_of(config: DatasetConfig) -> Path:
    (path,) = Path(config.audit_memo).glob("*.memo")
    return path


def test_a_second_start_finds_the_same_manifest_and_report(
    config: DatasetConfig, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.INFO)
    Path(config.image_path, "unlisted.jpg").write_bytes(encoded())
    time.sleep(0.03)
    reports = []
    for start in range(2):
        caplog.clear()
        path = tmp_path / f"report{start}.json"
        manifest, report = load_manifest(config, max_megapixels=100, report_path=path)
        reports.append((report, path.read_text()))
        assert (TAKEN in caplog.text) == (start == 1)
        assert "left out because of bad input" in caplog.text
        assert f"{config.annotation_path}: read as Upstage JSON (certain: " in caplog.text
    assert reports[0] == reports[1]
    assert reports[0][0].counts == {"missing": 1}
    assert reports[0][0].not_annotated == ("unlisted.jpg",)
    plain, _ = load(config.model_copy(update={"audit_memo": "off"}))
    assert_same(manifest, plain)
    assert manifest.filenames == ("a.jpg", "영수증.jpg", "sub/c.png")
    np.testing.assert_array_equal(manifest.polygons.polygons_of(1)[1], [[98, 2], [98, 12], [91, 12]])


def test_files_of_a_later_time_zone_are_audited_once_too(
    config: DatasetConfig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    in_an_hour = time.time() + 3600
    for path in (Path(str(config.annotation_path)), *Path(config.image_path).rglob("*")):
        os.utime(path, (in_an_hour, in_an_hour))
    time.sleep(0.03)
    for start in range(2):
        caplog.clear()
        load(config)
        assert (TAKEN in caplog.text) == (start == 1)


def test_bad_data_raises_the_same_error_at_each_start(config: DatasetConfig) -> None:
    write_annotations(Path(str(config.annotation_path)), {"a.jpg": [[[0, 0], [1, 1]]], "sub/c.png": [SQUARE]})
    messages = []
    for _ in range(2):
        with pytest.raises(BadDataError, match="too_few_points") as caught:
            load(config)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def change_pixels(config: DatasetConfig) -> None:
    path, before = Path(config.image_path, "a.jpg"), os.stat(Path(config.image_path, "a.jpg"))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # same size, same mtime


def restore_missing(config: DatasetConfig) -> None:
    Path(config.image_path, "gone.jpg").write_bytes(encoded())


def remove_image(config: DatasetConfig) -> None:
    Path(config.image_path, "sub", "c.png").unlink()


def add_image(config: DatasetConfig) -> None:
    Path(config.image_path, "sub", "unlisted.png").write_bytes(encoded(image_format="PNG"))


def change_annotations(config: DatasetConfig) -> None:
    write_annotations(Path(str(config.annotation_path)), {"a.jpg": [SQUARE[1:]]})


def test_a_changed_file_in_a_folder_of_annotations_is_noticed(config: DatasetConfig, tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "a.txt").write_text("2,2,12,2,12,9,2,9,one")
    time.sleep(0.03)
    config = config.model_copy(update={"annotation_path": str(texts)})
    assert load(config)[0].polygons.num_polygons == 1
    (texts / "a.txt").write_text("2,2,12,2,12,9,2,9,one\n20,2,30,2,30,9,20,9,two")
    assert load(config)[0].polygons.num_polygons == 2


@pytest.mark.parametrize("change", [change_pixels, restore_missing, remove_image, add_image, change_annotations])
def test_every_change_is_noticed(config: DatasetConfig, change: object) -> None:
    before = load(config)
    change(config)  # type: ignore[operator]
    found = load(config)
    expected = load(config.model_copy(update={"audit_memo": "off"}))
    assert_same(found[0], expected[0])
    assert found[1] == expected[1]
    assert found[1] != before[1]


@pytest.mark.parametrize(
    "setting", [{"check_pixels": False}, {"annotation_frame": "upright"}, {"annotation_format": "upstage"}]
)
def test_an_audit_with_other_settings_is_made_again(
    config: DatasetConfig, setting: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    load(config)
    caplog.set_level(logging.INFO)
    load(config.model_copy(update=setting))
    assert TAKEN not in caplog.text


def test_memos_may_lie_among_the_images(config: DatasetConfig, caplog: pytest.LogCaptureFixture) -> None:
    config = config.model_copy(update={"audit_memo": str(Path(config.image_path, "sub", MEMO_FOLDER))})
    Path(config.audit_memo).mkdir()
    time.sleep(0.03)
    load(config)
    caplog.set_level(logging.INFO)
    load(config)
    assert TAKEN in caplog.text


def test_an_audit_waits_for_another_process_that_makes_it(
    config: DatasetConfig, caplog: pytest.LogCaptureFixture
) -> None:
    load(config)
    (lock,) = Path(config.audit_memo).glob("*.lock")
    program = (
        "import fcntl, sys\nwith open(sys.argv[1], 'w') as file:\n"
        "    fcntl.lockf(file, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen([sys.executable, "-c", program, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdin is not None
    assert other.stdout is not None
    other.stdout.readline()
    threading.Timer(0.2, other.stdin.close).start()
    caplog.set_level(logging.INFO)
    load(config)
    other.wait()
    assert "another process audits these images; waiting for its result" in caplog.text
    assert TAKEN in caplog.text


def test_other_settings_have_their_own_memo(config: DatasetConfig) -> None:
    load(config)
    with pytest.raises(BadDataError, match="bad_dimensions"):
        load_manifest(config.model_copy(update={"on_bad_sample": "error"}), max_megapixels=0.0001)
    assert load_manifest(config, max_megapixels=100)[1].counts == {"missing": 1}


def test_a_week_later_what_another_version_kept_is_removed(
    config: DatasetConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(config.audit_memo)
    load(config)
    (ours,) = folder.glob("*.memo")
    ours.with_name(f"{ours.name}.part000000").touch()
    other_set = tmp_path / "others"
    other_set.mkdir()
    (other_set / "a.jpg").write_bytes(encoded())
    load(DatasetConfig(image_path=str(other_set), audit_memo=str(folder)))
    (theirs,) = set(folder.glob("*.memo")) - {ours}
    first = folder / f"{'0' * 16}-{'1' * 16}.memo"  # as the first versions named them
    first.touch()

    for version, are_old in (("next", False), ("after next", True)):
        if are_old:
            for path in folder.iterdir():
                os.utime(path, (0, 0))
        before = set(folder.iterdir())
        monkeypatch.setattr(audit_memo, "auditor_digest", lambda version=version: version)
        load(config)
        assert bool(before - set(folder.iterdir())) == are_old
    assert theirs in folder.iterdir()
    assert not first.exists()
    assert len(list(folder.glob("*.memo"))) == 2
    assert not list(folder.glob("*.part*"))


@pytest.mark.parametrize("module", ["datasets/names.py", "datasets/formats/coco.py", "file_names.py", "polygons.py"])
def test_other_code_that_can_change_an_audit_makes_other_memos(module: str, tmp_path: Path) -> None:
    package = Path(
        shutil.copytree(ROOT / "ocr", tmp_path / "ocr", ignore=shutil.ignore_patterns("__pycache__", "weights"))
    )
    audit_memo.auditor_digest.cache_clear()
    assert audit_memo.auditor_digest(package) == audit_memo.auditor_digest()
    with (package / module).open("a") as file:
        file.write("CHANGED = 1\n")
    audit_memo.auditor_digest.cache_clear()
    assert audit_memo.auditor_digest(package) != audit_memo.auditor_digest()


@pytest.mark.parametrize("damage", [b"", b"hello", None, "flipped"])
def test_a_damaged_memo_is_made_again_with_one_warning(
    config: DatasetConfig, damage: bytes | str | None, caplog: pytest.LogCaptureFixture
) -> None:
    expected, _ = load(config)
    content = bytearray(memo_of(config).read_bytes())
    if damage is None:
        del content[-1000:]
    elif isinstance(damage, bytes):
        content[:] = damage
    else:
        content[len(content) // 4] ^= 1
    path = memo_of(config)
    path.unlink()  # the manifest above has mapped it
    path.write_bytes(content)
    caplog.clear()
    assert_same(load(config)[0], expected)
    assert [TAKEN in line or "damaged or not ours" in line for line in caplog.messages].count(True) == 1
    caplog.set_level(logging.INFO)
    load(config)
    assert TAKEN in caplog.text


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("path_bytes", b"../../x/"),
        ("filename_bytes", b"/etc/pas"),
        ("vertex_starts", 10**9),
        ("polygon_starts", -1),
        ("orientations", 9),
        ("sample_ids", 10**6),
        ("stored_sizes", -5),
    ],
)
def test_a_memo_from_a_stranger_leads_nowhere(
    config: DatasetConfig, column: str, value: bytes | int, caplog: pytest.LogCaptureFixture
) -> None:
    expected, _ = load(config)
    memo = map_columns(memo_of(config))
    columns = {name: array.copy() for name, array in memo.columns.items()}
    if isinstance(value, bytes):
        columns[column][: len(value)] = np.frombuffer(value, np.uint8)
    else:
        columns[column][-1] = np.array(value).astype(columns[column].dtype)
    write_columns(memo_of(config), memo.values, {name: [array] for name, array in columns.items()})
    assert_same(load(config)[0], expected)
    assert "damaged or not ours" in caplog.text


def test_a_memo_with_one_name_twice_is_not_used(config: DatasetConfig, caplog: pytest.LogCaptureFixture) -> None:
    expected, _ = load(config)
    memo = map_columns(memo_of(config))
    columns = {name: array.copy() for name, array in memo.columns.items()}
    names = Names.of(["a.jpg", "a.jpg", "sub/c.png"])
    columns |= {"filename_bytes": names.content, "filename_starts": names.starts}
    write_columns(memo_of(config), memo.values, {name: [array] for name, array in columns.items()})
    assert_same(load(config)[0], expected)
    assert "damaged or not ours" in caplog.text


@pytest.mark.parametrize(
    "values", [{"headers": [{"format": "JPEG"}]}, {"headers": [["JPEG"]]}, {"headers": 3}, {"remarks": [[0, [[]]]]}]
)
def test_what_another_memo_says_of_the_files_is_used_only_if_it_is_sound(
    config: DatasetConfig, values: dict[str, object]
) -> None:
    load(config)
    memo = map_columns(memo_of(config))
    columns = {name: [array.copy()] for name, array in memo.columns.items()}
    write_columns(memo_of(config), memo.values | values, columns)
    change_annotations(config)  # the memo is not used whole, but what it says of the files would be
    assert load(config)[0].filenames == ("a.jpg",)


def test_an_interrupted_audit_goes_on_where_it_was(config: DatasetConfig, caplog: pytest.LogCaptureFixture) -> None:
    annotations = Path(str(config.annotation_path))
    write_annotations(annotations, {"a.jpg": [SQUARE], "sub/c.png": [SQUARE]}, end=" " * 5_000_000 + "}")
    with pytest.raises(InputError, match="not a JSON file"):
        load(config)
    (part,) = Path(config.audit_memo).glob("*.part*")
    assert len(map_columns(part).columns["file_rows"]) == 2
    write_annotations(annotations, {"a.jpg": [SQUARE], "sub/c.png": [SQUARE]})
    assert len(load(config)[0]) == 2
    assert not list(Path(config.audit_memo).glob("*.part*"))


def test_a_pickled_manifest_is_the_path_of_its_memo(config: DatasetConfig) -> None:
    manifest, _ = load(config)
    pickled = pickle.dumps(manifest)
    assert len(pickled) < 500
    assert_same(pickle.loads(pickled), manifest)
    memo_of(config).unlink()
    assert_same(pickle.loads(pickle.dumps(manifest)), manifest)  # the arrays themselves
    with pytest.raises(InputError, match="start the run again"):
        pickle.loads(pickled)


def test_the_memo_lies_beside_annotated_images_only(
    config: DatasetConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    load(config.model_copy(update={"audit_memo": "auto"}))
    assert list((tmp_path / MEMO_FOLDER).glob("*.memo"))
    assert not (tmp_path / "cache").exists()
    load(config.model_copy(update={"audit_memo": "auto", "annotation_path": None, "image_path": str(tmp_path)}))
    assert len(list((tmp_path / "cache/dali-dbnet/audit").glob("*.memo"))) == 1


def test_a_folder_that_cannot_hold_the_memo_is_named(config: DatasetConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        InputError, match=r"audit_memo=.*file.*cannot be written; choose another folder, auto, cache or off"
    ):
        load(config.model_copy(update={"audit_memo": str(tmp_path / "file")}))


def test_a_manifest_has_the_columns_of_a_memo(config: DatasetConfig) -> None:
    load(config)
    assert COLUMNS.keys() <= map_columns(memo_of(config)).columns.keys()
