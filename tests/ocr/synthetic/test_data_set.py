import hashlib
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, JpegImagePlugin
from shapely import Polygon

from ocr.synthetic.config import SyntheticConfig
from ocr.synthetic.data_set import draw_data_set, draw_in_processes

SMALL = SyntheticConfig(num_train=7, num_val=5, min_side=256, max_side=384)
Entry = tuple[Path, dict]


@pytest.fixture(scope="module")
def default_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 24 training and 8 validation images of the default set."""
    return draw_data_set(SyntheticConfig(num_train=24, num_val=8), tmp_path_factory.mktemp("default"))


@pytest.fixture(scope="module")
def small_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_data_set(SMALL, tmp_path_factory.mktemp("small"), num_workers=1)


def _entries(root: Path) -> list[Entry]:
    return [
        (root / "images" / split / name, entry)
        for split in ("train", "val")
        for name, entry in json.loads((root / "jsons" / f"{split}.json").read_text())["images"].items()
    ]


def _words(root: Path) -> list[tuple[dict, dict]]:
    return [(entry, word) for _, entry in _entries(root) for word in entry["words"].values()]


def _digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


def _rng(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def test_one_and_two_workers_write_the_same_bytes(small_root: Path, tmp_path: Path) -> None:
    draw_data_set(SMALL, tmp_path / "two", num_workers=2)
    assert len(_digests(small_root)) == 7 + 5 + 2 + 1
    assert _digests(small_root) == _digests(tmp_path / "two")


def test_all_images_differ_and_another_seed_draws_other_images(small_root: Path, tmp_path: Path) -> None:
    other = draw_data_set(SMALL.model_copy(update={"seed": 8, "num_train": 2, "num_val": 2}), tmp_path, num_workers=1)
    images = [path.read_bytes() for path, _ in _entries(small_root) + _entries(other)]
    assert len(set(images)) == len(images) == 7 + 5 + 4


def test_larger_set_starts_with_the_images_of_a_smaller_one(small_root: Path, tmp_path: Path) -> None:
    smaller = draw_data_set(SMALL.model_copy(update={"num_train": 3, "num_val": 2}), tmp_path, num_workers=1)
    images = {name: digest for name, digest in _digests(smaller).items() if name.endswith(".jpg")}
    assert len(images) == 5
    assert images.items() <= _digests(small_root).items()


def test_complete_set_is_not_drawn_again(small_root: Path) -> None:
    def times() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (small_root, *small_root.rglob("*"))}

    before = times()
    assert draw_data_set(SMALL, small_root) == small_root
    assert times() == before


@pytest.mark.parametrize("lost", ["images/val/val_00001.jpg", "jsons/train.json"])
def test_set_that_lost_a_file_is_drawn_again(lost: str, tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"num_train": 1, "num_val": 2})
    complete = _digests(draw_data_set(config, tmp_path, num_workers=1))
    (tmp_path / lost).unlink()
    draw_data_set(config, tmp_path, num_workers=1)
    assert _digests(tmp_path) == complete


def test_set_drawn_from_other_values_is_replaced(tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"num_train": 2, "num_val": 1})
    before = _digests(draw_data_set(config, tmp_path, num_workers=1))
    after = _digests(draw_data_set(config.model_copy(update={"seed": 8, "num_train": 1}), tmp_path, num_workers=1))
    assert set(before) - set(after) == {"images/train/train_00001.jpg"}
    assert all(before[name] != after[name] for name in after)


def test_folder_with_other_contents_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "mine.jpg").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"is not empty and holds no synthetic\.json"):
        draw_data_set(SMALL, tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["images", "mine.jpg"]


def test_killed_drawing_leaves_no_set_and_does_not_block_the_next_one(tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"num_train": 60})
    program = (
        "from pathlib import Path\n"
        "from ocr.synthetic.config import SyntheticConfig\nfrom ocr.synthetic.data_set import draw_data_set\n"
        f"draw_data_set(SyntheticConfig.model_validate_json({config.model_dump_json()!r}), Path({str(tmp_path)!r}), 1)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.DEVNULL) as drawing:
        while not list(tmp_path.rglob("*.jpg")):
            assert drawing.poll() is None
            time.sleep(0.01)
        drawing.kill()
    assert list(tmp_path.rglob("*.jpg"))
    assert not {"images", "jsons", "synthetic.json"} & {path.name for path in tmp_path.iterdir()}
    config = SMALL.model_copy(update={"num_train": 1, "num_val": 1})
    assert len(_entries(draw_data_set(config, tmp_path, num_workers=1))) == 2


def test_a_drawing_process_does_not_load_torch() -> None:
    """Loading it takes five times as long as all that drawing needs."""
    code = (
        "import sys, ocr.synthetic.worker; print([name for name in ('torch', 'numba', 'hydra') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_failed_worker_process_is_reported_with_its_exit_code(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="drawing process ended with exit code 1"):
        list(draw_in_processes(SMALL, tmp_path / "missing", num_jobs=12, num_workers=1))


def test_sizes_in_the_json_are_those_of_the_files(default_root: Path) -> None:
    for path, entry in _entries(default_root):
        with Image.open(path) as image:
            assert (entry["img_w"], entry["img_h"]) == image.size
            assert min(image.size) >= 480
            assert max(image.size) <= 900


def test_empty_range_is_an_error_that_shows_both_ends() -> None:
    with pytest.raises(ValueError, match="min_side=901 is above max_side=900"):
        SyntheticConfig(min_side=901)


def test_default_set_has_all_kinds_of_files_and_words(default_root: Path) -> None:
    modes, orientations, progressive, samplings = set(), set(), set(), set()
    for path, _ in _entries(default_root):
        with Image.open(path) as image:
            modes.add(image.mode)
            orientations.add(image.getexif().get(0x0112, 0))
            progressive.add("progressive" in image.info)
            if image.mode == "RGB":
                samplings.add(JpegImagePlugin.get_sampling(image))
    assert modes == {"RGB", "L"}
    assert {0, 1} < orientations
    assert orientations & {2, 4, 5, 7}, "mirrored"
    assert orientations & {3, 6, 8}, "turned"
    assert progressive == {False, True}
    assert samplings == {0, 1, 2}
    assert any(not entry["words"] for _, entry in _entries(default_root))
    words = _words(default_root)
    assert 0.02 <= np.mean([word.get("illegibility", False) for _, word in words]) <= 0.1
    assert 0.05 <= np.mean([len(word["points"]) > 4 for _, word in words]) <= 0.25
    assert {4, 6, 8} < {len(word["points"]) for _, word in words} <= {4, 6, 8, 10, 12, 14}
    assert 10 <= np.median([len(entry["words"]) for _, entry in _entries(default_root)]) <= 40


def test_legible_words_are_large_enough_and_not_too_long_at_640(default_root: Path) -> None:
    for entry, word in _words(default_root):
        points = np.array(word["points"])
        upper, lower = points[: len(points) // 2], points[: len(points) // 2 - 1 : -1]
        height = np.linalg.norm(upper - lower, axis=1).mean()
        if not word.get("illegibility"):
            assert height * 640 / max(entry["img_w"], entry["img_h"]) >= 9
            assert np.linalg.norm(np.diff(upper, axis=0), axis=1).sum() <= 13 * height


def test_polygons_are_inside_simple_apart_and_clockwise_when_upright(default_root: Path) -> None:
    for path, entry in _entries(default_root):
        with Image.open(path) as image:
            is_mirrored = image.getexif().get(0x0112, 1) in (2, 4, 5, 7)
        shapes = []
        for word in entry["words"].values():
            points = np.array(word["points"])
            assert (points >= 0).all()
            assert (points <= (entry["img_w"], entry["img_h"])).all()
            shapes.append(Polygon(points))
            assert shapes[-1].is_valid
            # In a frame whose y points down, clockwise polygons have a positive shoelace sum: shapely's "ccw".
            assert shapes[-1].exterior.is_ccw != is_mirrored
        for one, other in itertools.combinations(shapes, 2):
            assert one.distance(other) > 0.5, (path, one, other)


def test_polygons_lie_on_text_in_every_stored_file(default_root: Path) -> None:
    """Letters have edges: a picture changes much more inside the polygons than on the paper close by."""
    ratios = []
    for path, entry in _entries(default_root):
        legible = [np.array(word["points"]) for word in entry["words"].values() if not word.get("illegibility")]
        if not legible:
            continue
        with Image.open(path) as image:
            edges = np.abs(cv2.Laplacian(np.asarray(image.convert("L"), np.float32), cv2.CV_32F, ksize=3))
        mask = np.zeros(edges.shape, np.uint8)
        cv2.fillPoly(mask, [points.round().astype(np.int32) for points in legible], (1,))
        near, far = cv2.dilate(mask, np.ones((5, 5), np.uint8)), cv2.dilate(mask, np.ones((15, 15), np.uint8))
        ratios.append(edges[mask > 0].mean() / edges[far > near].mean())
    assert len(ratios) >= 28
    assert min(ratios) > 2


def test_blank_pictures_have_no_words(tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"blank_share": 1.0, "num_train": 2, "num_val": 1})
    entries = _entries(draw_data_set(config, tmp_path, num_workers=1))
    assert [entry["words"] for _, entry in entries] == [{}, {}, {}]
    assert all(path.stat().st_size > 1000 for path, _ in entries)
