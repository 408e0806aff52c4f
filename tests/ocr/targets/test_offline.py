"""Maps from files equal drawn ones, and unusable files are replaced by drawn maps."""

import io
import json
import logging
import threading
import tracemalloc
import zipfile
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from ocr.polygons import PolygonBatch
from ocr.targets.agreement import random_polygons
from ocr.targets.config import TargetConfig
from ocr.targets.maps import make_targets
from ocr.targets.offline import OfflineMaps, UnfitMaps, check_maps, maps_file, maps_key, write_maps
from ocr.targets.target_maps import TargetMaps

SIZE = (96, 128)
CONFIG = TargetConfig(min_side=2)
NAMES = ("a.jpg", "a.png", "sub/b.jpg")
BYTES_OF_ONE = 5 * SIZE[0] * SIZE[1]
"""Bytes of the maps of one image in RAM."""
HALF = 2.0**-12
"""Largest rounding error of float16 between 0.5 and 1."""


@pytest.fixture
def polygons() -> PolygonBatch:
    return random_polygons(np.random.default_rng(3), num_images=3, polygons_per_image=6, size=SIZE)


def write(
    folder: Path, polygons_input: PolygonBatch, config: TargetConfig = CONFIG, size: tuple[int, int] = SIZE
) -> None:
    for place, name in zip(range(len(polygons_input)), NAMES, strict=False):
        one = polygons_input.select([place])
        write_maps(maps_file(folder, name), make_targets(one, size, config), maps_key(one, size, config))


def offline(folder: Path, config: TargetConfig = CONFIG, keep: bool = False) -> OfflineMaps:
    maps = OfflineMaps(folder, NAMES, config)
    maps.budget = 3 * BYTES_OF_ONE if keep else 0
    return maps


def assert_equal(found: TargetMaps, expected: TargetMaps, tolerance: float = 0.0) -> None:
    for field in fields(TargetMaps):
        one, other = getattr(found, field.name), getattr(expected, field.name)
        assert one.dtype == torch.float32
        assert one.shape == other.shape, field.name
        limit = tolerance if field.name == "thresh_map" else 0.0
        assert (one - other).abs().max() <= limit, field.name


@pytest.mark.parametrize("stride", [1, 4])
def test_read_maps_equal_drawn_maps_rounded_to_float16(tmp_path, polygons, stride):
    config = TargetConfig(min_side=2, map_stride=stride)
    write(tmp_path, polygons, config)
    maps = offline(tmp_path, config)
    found, expected = maps.targets([0, 1, 2], polygons, SIZE), make_targets(polygons, SIZE, config)
    assert_equal(found, expected, HALF)
    assert torch.equal(found.thresh_map, expected.thresh_map.half().float())
    assert expected.shrink_map.sum() > 50
    assert (maps.hits, maps.fallbacks) == (3, 0)


@pytest.mark.gpu
def test_the_host_does_not_wait_for_the_copy_to_a_gpu(tmp_path, polygons):
    write(tmp_path, polygons)
    maps_file(tmp_path, NAMES[1]).unlink()  # drawn
    maps = offline(tmp_path)
    expected = maps.targets([0, 1, 2], polygons, SIZE)
    maps.targets([0, 1, 2], polygons, SIZE, "cuda")  # the first use compiles the kernel
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = maps.targets([0, 1, 2], polygons, SIZE, "cuda")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for field in fields(TargetMaps):
        one, other = getattr(found, field.name), getattr(expected, field.name)
        assert torch.equal(one[[0, 2]].cpu(), other[[0, 2]]), field.name
        assert torch.allclose(one[1].cpu(), other[1], atol=1e-4), field.name


@pytest.mark.parametrize("data_set", ["sroie", "icdar15"])
def test_maps_of_real_images_survive_the_file(tmp_path, data_set, request):
    folder: Path = request.getfixturevalue(data_set)
    images = list(json.loads((folder / "jsons/val.json").read_text())["images"].values())[:3]
    words = [list(image["words"].values()) for image in images]
    polygons_input = PolygonBatch.from_lists(
        [
            [np.array(word["points"]) * 640 / max(image["img_w"], image["img_h"]) for word in page]
            for image, page in zip(images, words, strict=True)
        ],
        [[word.get("illegibility", False) for word in page] for page in words],
    )
    config, size = TargetConfig(shrink_ratio=0.6, min_side=4), (640, 640)
    write(tmp_path, polygons_input, config, size)
    maps = offline(tmp_path, config)
    assert_equal(maps.targets([0, 1, 2], polygons_input, size), make_targets(polygons_input, size, config), HALF)
    assert maps.hits == 3


def test_values_of_a_square_worked_by_hand(tmp_path):
    # Area 400, perimeter 80, r 0.5: D = 400 * 0.75 / 80 = 3.75.
    config = TargetConfig(shrink_ratio=0.5)
    square = PolygonBatch.from_lists([[np.array([[10, 10], [30, 10], [30, 30], [10, 30]])]])
    write(tmp_path, square, config, (40, 40))
    found = OfflineMaps(tmp_path, NAMES[:1], config).targets([0], square, (40, 40))
    row = 20
    assert found.shrink_map[0, row].nonzero().flatten().tolist() == list(range(14, 26))
    assert found.thresh_map[0, row, 10].item() == pytest.approx(0.3 + 0.4 * (1 - 0.5 / 3.75), abs=HALF)
    assert found.thresh_map[0, row, 0].item() == pytest.approx(0.3, abs=HALF)
    assert found.thresh_mask[0, row].sum() == 20 + 4 + 4
    with np.load(maps_file(tmp_path, NAMES[0])) as archive:
        kinds = {name: (archive[name].dtype.name, archive[name].shape) for name in archive.files if name != "key"}
    assert kinds == {
        "prob_map": ("uint8", (40, 40)),
        "prob_mask": ("uint8", (40, 40)),
        "thresh_map": ("float16", (40, 40)),
        "thresh_mask": ("uint8", (40, 40)),
    }


def test_images_without_polygons_and_batches_without_images(tmp_path):
    nothing = PolygonBatch.from_lists([[]])
    write(tmp_path, nothing)
    maps = offline(tmp_path)
    assert_equal(maps.targets([0], nothing, SIZE), make_targets(nothing, SIZE, CONFIG), HALF)
    assert maps.hits == 1
    assert maps.targets([], PolygonBatch.from_lists([]), SIZE).shrink_map.shape == (0, *SIZE)


def moved_by_a_64th(polygons_input: PolygonBatch) -> PolygonBatch:
    vertices = polygons_input.vertices.copy()
    vertices[0, 0] += 1 / 64
    return PolygonBatch(vertices, polygons_input.vertex_starts, polygons_input.polygon_starts, polygons_input.ignore)


def ignored(polygons_input: PolygonBatch) -> PolygonBatch:
    flags = polygons_input.ignore.copy()
    flags[0] ^= True
    return polygons_input.with_ignore(flags)


@pytest.mark.parametrize("change", [moved_by_a_64th, ignored])
@pytest.mark.parametrize("keep", [False, True])
def test_a_changed_polygon_makes_maps_stale(tmp_path, polygons, change, keep):
    write(tmp_path, polygons)
    maps = offline(tmp_path, keep=keep)
    maps.targets([0, 1, 2], polygons, SIZE)
    changed = change(polygons)
    found, expected = maps.targets([0, 1, 2], changed, SIZE), make_targets(changed, SIZE, CONFIG)
    assert torch.equal(found.thresh_map[0], expected.thresh_map[0])  # drawn, so not rounded
    assert_equal(found, expected, HALF)
    assert (maps.hits, maps.fallbacks) == (5, 1)


def test_another_size_makes_maps_stale(tmp_path, polygons):
    write(tmp_path, polygons)
    maps, size = offline(tmp_path), (SIZE[0], SIZE[1] + 32)
    assert_equal(maps.targets([0, 1, 2], polygons, size), make_targets(polygons, size, CONFIG))
    assert maps.fallbacks == 3


@pytest.mark.parametrize(
    "change",
    [
        {"shrink_ratio": 0.41},
        {"thresh_min": 0.31},
        {"thresh_max": 0.71},
        {"min_side": 2.5},
        {"map_stride": 2},
        {"max_text_weight": 2},
    ],
    ids=lambda change: next(iter(change)),
)
def test_each_changed_setting_makes_maps_stale(tmp_path, polygons, change):
    write(tmp_path, polygons)
    config = CONFIG.model_copy(update=change)
    maps = offline(tmp_path, config)
    assert_equal(maps.targets([0, 1, 2], polygons, SIZE), make_targets(polygons, SIZE, config))
    assert maps.fallbacks == 3


def test_the_test_above_changes_every_setting():
    changed = {"shrink_ratio", "thresh_min", "thresh_max", "min_side", "map_stride", "max_text_weight"}
    assert set(TargetConfig.model_fields) == changed


def test_moving_a_vertex_to_the_next_polygon_changes_the_key():
    corners = np.array([[0, 0], [9, 0], [9, 9], [0, 9], [20, 0], [29, 0], [29, 9]])
    one = PolygonBatch.from_lists([[corners[:4], corners[4:]]])
    other = PolygonBatch.from_lists([[corners[:3], corners[3:]]])
    assert maps_key(one, SIZE, CONFIG) != maps_key(other, SIZE, CONFIG)
    assert maps_key(one, SIZE, CONFIG) == maps_key(one.select([0]), SIZE, TargetConfig(min_side=2))


def test_each_side_of_the_input_is_in_the_key(polygons):
    one = polygons.select([0])
    assert len({maps_key(one, size, CONFIG) for size in ((96, 128), (97, 128), (96, 129), (129, 96))}) == 4


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 4096, b"hello", b"PK\x03\x04" + b"\0" * 100],
    ids=["empty", "zeros", "text", "zip of nothing"],
)
def test_foreign_files_are_not_used(tmp_path, polygons, content):
    write(tmp_path, polygons)
    maps_file(tmp_path, "a.jpg").write_bytes(content)
    maps = offline(tmp_path)
    expected = make_targets(polygons, SIZE, CONFIG)
    assert_equal(maps.targets([0, 1, 2], polygons, SIZE), expected, HALF)
    assert (maps.hits, maps.fallbacks) == (2, 1)


def test_arrays_of_another_shape_or_type_are_not_used(tmp_path, polygons):
    one = polygons.select([0])
    key = maps_key(one, SIZE, CONFIG)
    path = maps_file(tmp_path, "a.jpg")
    for arrays in (
        {"prob_map": np.zeros(SIZE, np.uint8)},
        {"key": np.array(key)},
        {"key": np.array(key)} | {name: np.zeros(SIZE, np.float32) for name in ("prob_map", "thresh_map")},
        {"key": np.array(key)}
        | {name: np.zeros(SIZE, np.float32) for name in ("prob_map", "prob_mask", "thresh_map", "thresh_mask")},
    ):
        np.savez(path, **arrays)
        with pytest.raises(UnfitMaps) as raised:
            check_maps(path, key, SIZE)
        assert raised.value.reason == "damaged"
    np.save(path.with_suffix(".npy"), np.zeros(3))
    path.with_suffix(".npy").replace(path)
    with pytest.raises(UnfitMaps, match=r"a\.jpg\.npz: damaged"):
        check_maps(path, key, SIZE)


def test_damaged_and_truncated_files_never_give_wrong_maps(tmp_path, polygons):
    one = polygons.select([0])
    write(tmp_path, one)
    path, expected = maps_file(tmp_path, "a.jpg"), make_targets(one, SIZE, CONFIG)
    whole = path.read_bytes()
    rng = np.random.default_rng(5)
    num_served = 0
    for place in rng.integers(0, len(whole), 300):
        damaged = bytearray(whole)
        damaged[place] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        maps = offline(tmp_path)
        assert_equal(maps.targets([0], one, SIZE), expected, HALF)
        num_served += maps.hits
    assert num_served < 100  # the others are unimportant bytes of the archive, such as times
    for length in rng.integers(0, len(whole), 50):
        path.write_bytes(whole[:length])
        with pytest.raises(UnfitMaps):
            check_maps(path, maps_key(one, SIZE, CONFIG), SIZE)


@pytest.mark.parametrize("name", ["key", "prob_map", "thresh_map"])
def test_a_member_that_unpacks_to_gigabytes_is_refused_by_its_header(tmp_path, polygons, name):
    one = polygons.select([0])
    write(tmp_path, one)
    path, size = maps_file(tmp_path, "a.jpg"), 2**28
    header = io.BytesIO()
    dtype = {"key": "<U1", "prob_map": "|u1", "thresh_map": "<f2"}[name]
    shape = (size // np.dtype(dtype).itemsize,)
    np.lib.format.write_array_header_1_0(header, {"descr": dtype, "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    members[f"{name}.npy"] = header.getvalue() + bytes(size)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    del members, content
    tracemalloc.start()
    try:
        with pytest.raises(UnfitMaps, match=f"{name} is .* bytes; expected at most") as raised:
            check_maps(path, maps_key(one, SIZE, CONFIG), SIZE)
        offline(tmp_path).preload()
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()
    assert raised.value.reason == "damaged"


def test_batches_of_read_and_drawn_maps_keep_their_order(tmp_path, polygons):
    write(tmp_path, polygons)
    maps_file(tmp_path, "a.png").unlink()
    maps = offline(tmp_path)
    order = [1, 2, 0, 1]
    chosen = polygons.select(order)
    assert_equal(maps.targets(order, chosen, SIZE), make_targets(chosen, SIZE, CONFIG), HALF)
    assert (maps.hits, maps.fallbacks) == (2, 2)
    assert maps.fallback_line() == "Fallback to on-the-fly generation: 1/3 samples (33.3%)"


def test_one_index_per_image_is_needed(tmp_path, polygons):
    with pytest.raises(ValueError, match="2 indices for the polygons of 3 images"):
        offline(tmp_path).targets([0, 1], polygons, SIZE)


def test_fallbacks_are_counted_by_sample_and_logged_once(tmp_path, polygons, caplog):
    write(tmp_path, polygons)
    maps_file(tmp_path, "a.png").unlink()
    maps_file(tmp_path, "a.jpg").write_bytes(b"cut")
    maps = offline(tmp_path)
    with caplog.at_level(logging.DEBUG, "ocr.targets.offline"):
        maps.warn_of_fallbacks()
        assert not caplog.records
        for _ in range(3):
            maps.targets([0, 1, 2], polygons, SIZE)
            maps.warn_of_fallbacks()
    details = [record.getMessage() for record in caplog.records if record.levelno == logging.DEBUG]
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert (maps.hits, maps.fallbacks) == (3, 6)
    assert len(details) == 2
    assert "a.jpg.npz: damaged" in details[0]
    assert "a.png.npz: no such file" in details[1]
    assert len(warnings) == 1
    assert warnings[0].startswith("Fallback to on-the-fly generation: 2/3 samples (66.7%); for 1 of them the file in")
    assert "scripts/prepare_data.py" in warnings[0]


def test_without_samples_there_is_no_fallback(tmp_path):
    assert offline(tmp_path).fallback_line() == "Fallback to on-the-fly generation: 0/0 samples (0.0%)"


def test_maps_stay_in_ram_only_with_a_budget(tmp_path, polygons):
    write(tmp_path, polygons)
    keeping, reading = offline(tmp_path, keep=True), offline(tmp_path)
    before = [maps.targets([0, 1, 2], polygons, SIZE) for maps in (keeping, reading)]
    for name in NAMES:
        maps_file(tmp_path, name).unlink()
    after = [maps.targets([0, 1, 2], polygons, SIZE) for maps in (keeping, reading)]
    assert_equal(after[0], before[0])
    assert (keeping.hits, keeping.fallbacks, keeping.num_kept) == (6, 0, 3)
    assert (reading.hits, reading.fallbacks, reading.num_kept, reading.num_bytes) == (3, 3, 0, 0)
    assert keeping.num_bytes == 3 * BYTES_OF_ONE
    keeping.drop([0, 2])
    assert (keeping.num_kept, keeping.num_bytes) == (1, BYTES_OF_ONE)


@pytest.mark.parametrize("preload", [True, False])
def test_maps_beyond_the_budget_are_read_each_time(tmp_path, polygons, preload):
    write(tmp_path, polygons)
    maps = offline(tmp_path)
    maps.budget = 3 * BYTES_OF_ONE - 1
    if preload:
        maps.preload()
    expected = make_targets(polygons, SIZE, CONFIG)
    for _ in range(2):
        assert_equal(maps.targets([0, 1, 2], polygons, SIZE), expected, HALF)
        assert (maps.num_kept, maps.num_bytes) == (2, 2 * BYTES_OF_ONE)
    assert (maps.hits, maps.fallbacks) == (6, 0)


def test_the_bytes_in_ram_are_known_before_a_file_is_read(tmp_path):
    assert offline(tmp_path).bytes_of_one(640) == 5 * 640 * 640
    assert offline(tmp_path, TargetConfig(map_stride=4)).bytes_of_one(640) == 5 * 160 * 160


def test_preloading_reads_existing_files_and_logs_their_number(tmp_path, polygons, caplog):
    write(tmp_path, polygons)
    maps_file(tmp_path, "a.png").write_bytes(b"cut")
    maps = offline(tmp_path, keep=True)
    with caplog.at_level(logging.INFO, "ocr.targets.offline"):
        maps.preload()
        offline(tmp_path, keep=True).preload([2])
    lines = ["Preloaded 2/3 maps into RAM (66.7%), 0.1 MB", "Preloaded 1/1 maps into RAM (100.0%), 0.1 MB"]
    assert [record.getMessage() for record in caplog.records] == lines
    maps_file(tmp_path, "sub/b.jpg").unlink()
    assert_equal(maps.targets([0, 1, 2], polygons, SIZE), make_targets(polygons, SIZE, CONFIG), HALF)
    assert (maps.hits, maps.fallbacks) == (2, 1)


def test_rewritten_files_replace_those_in_ram(tmp_path, polygons):
    write(tmp_path, polygons)
    maps = offline(tmp_path, keep=True)
    maps.preload()
    changed = moved_by_a_64th(polygons)
    maps.targets([0, 1, 2], changed, SIZE)
    assert (maps.fallbacks, maps.num_kept, maps.num_bytes) == (1, 2, 2 * BYTES_OF_ONE)
    write(tmp_path, changed)
    maps.targets([0, 1, 2], changed, SIZE)
    assert (maps.fallbacks, maps.num_kept, maps.num_bytes) == (1, 3, 3 * BYTES_OF_ONE)
    maps.preload()
    assert maps.num_bytes == 3 * BYTES_OF_ONE
    assert maps.fallback_line() == "Fallback to on-the-fly generation: 0/3 samples (0.0%)"


def test_dropped_maps_take_no_bytes(tmp_path, polygons):
    write(tmp_path, polygons)
    maps = offline(tmp_path, keep=True)
    maps.preload()
    maps.drop(range(3))
    assert (maps.num_kept, maps.num_bytes) == (0, 0)


def test_files_rewritten_after_preloading_are_read(tmp_path, polygons):
    write(tmp_path, polygons)
    maps = offline(tmp_path, keep=True)
    maps.preload()
    changed = moved_by_a_64th(polygons)
    write(tmp_path, changed)
    assert_equal(maps.targets([0, 1, 2], changed, SIZE), make_targets(changed, SIZE, CONFIG), HALF)
    assert (maps.hits, maps.fallbacks) == (3, 0)


def test_returned_maps_are_copies(tmp_path, polygons):
    write(tmp_path, polygons)
    maps = offline(tmp_path, keep=True)
    first = maps.targets([0], polygons.select([0]), SIZE)
    expected = first.shrink_mask.clone()
    first.shrink_mask.zero_()
    assert torch.equal(maps.targets([0], polygons.select([0]), SIZE).shrink_mask, expected)


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path, polygons):
    one = polygons.select([0])
    path = tmp_path / "taken.npz"
    (path / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="taken"):
        write_maps(path, make_targets(one, SIZE, CONFIG), "key")
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken.npz"]


def test_readers_never_see_a_partial_file(tmp_path, polygons):
    one = polygons.select([0])
    made, key = make_targets(one, SIZE, CONFIG), maps_key(one, SIZE, CONFIG)
    path = maps_file(tmp_path, "a.jpg")
    write_maps(path, made, key)
    writer = threading.Thread(target=lambda: [write_maps(path, made, key) for _ in range(100)])
    writer.start()
    num_read = 0
    while writer.is_alive():
        check_maps(path, key, SIZE)
        num_read += 1
    writer.join()
    assert num_read > 1


def test_threads_can_read_at_the_same_time(tmp_path, polygons):
    write(tmp_path, polygons)
    maps_file(tmp_path, "a.png").unlink()
    maps, expected = offline(tmp_path, keep=True), make_targets(polygons, SIZE, CONFIG)
    found: list[TargetMaps] = []
    threads = [
        threading.Thread(target=lambda: [found.append(maps.targets([0, 1, 2], polygons, SIZE)) for _ in range(10)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 40
    for one in found:
        assert_equal(one, expected, HALF)
    assert (maps.hits, maps.fallbacks) == (80, 40)


@pytest.mark.gpu
def test_gpu_maps_equal_cpu_maps(tmp_path, polygons):
    write(tmp_path, polygons)
    maps_file(tmp_path, "a.png").unlink()
    found = offline(tmp_path).targets([0, 1, 2], polygons, SIZE, "cuda")
    expected = make_targets(polygons, SIZE, CONFIG)
    assert found.thresh_map.device.type == "cuda"
    for place in (0, 2):
        assert torch.equal(found.shrink_map[place].cpu(), expected.shrink_map[place])
        assert torch.equal(found.thresh_map[place].cpu(), expected.thresh_map[place].half().float())
    assert (found.shrink_map[1].cpu() - expected.shrink_map[1]).abs().mean() < 1e-2
