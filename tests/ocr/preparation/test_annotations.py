import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ocr.datasets.formats.upstage import read_upstage, upstage_document
from ocr.datasets.manifest import Manifest
from ocr.polygons import PolygonBatch
from ocr.preparation.annotations import write_upstage

NUM_IMAGES = 1100  # several blocks


@pytest.fixture
def manifest() -> Manifest:
    random = np.random.default_rng(0)
    names = tuple(f"영{number}.jpg" for number in range(NUM_IMAGES))
    return Manifest(
        image_paths=names,
        filenames=names,
        sample_ids=np.arange(NUM_IMAGES),
        stored_sizes=np.full((NUM_IMAGES, 2), 50, np.int32),
        orientations=np.full(NUM_IMAGES, 6, np.uint8),
        polygons=PolygonBatch.from_lists([random.uniform(0, 50, (n % 3, 4, 2)) for n in range(NUM_IMAGES)]),
        num_listed=NUM_IMAGES,
    )


@pytest.mark.parametrize("num_images", [0, 1, 512, NUM_IMAGES - 1])
def test_the_file_is_that_of_the_whole_document(tmp_path: Path, manifest: Manifest, num_images: int) -> None:
    indices = list(range(1, num_images + 1)) if num_images < NUM_IMAGES else []
    write_upstage(tmp_path / "a.json", manifest, indices, canonical=False, before_change=lambda: None)
    expected = json.dumps(upstage_document(manifest, indices, canonical=False), ensure_ascii=False)
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == expected


def stamp(path: Path) -> tuple[int, int, int]:
    """Returns what a write changes: modification time (twice, as os.utime takes it) and inode. A read changes the access time."""
    status = path.stat()
    return status.st_mtime_ns, status.st_mtime_ns, status.st_ino


def test_only_other_content_is_announced_and_written(tmp_path: Path, manifest: Manifest) -> None:
    path, changes = tmp_path / "a.json", []

    def write(count: int) -> None:
        write_upstage(
            path, manifest, range(count), canonical=True, before_change=lambda: changes.append((count, path.exists()))
        )

    write(600)
    before = stamp(path)
    write(600)
    assert changes == [(600, False)]
    (tmp_path / ".a.json.made").unlink()
    write(600)
    assert (changes, stamp(path)) == ([(600, False)], before)
    write(599)
    assert changes == [(600, False), (599, True)]
    content = path.read_bytes()
    path.write_bytes(content.replace(b"4", b"5"))
    os.utime(path, ns=before[:2])
    write(599)
    assert len(changes) == 3
    assert path.read_bytes() == content


@pytest.mark.parametrize("part", ["stored_sizes", "orientations", "filenames", "ignore", "vertices"])
def test_every_part_of_the_annotations_that_changes_is_written(tmp_path: Path, manifest: Manifest, part: str) -> None:
    polygons = manifest.polygons
    changed = {
        "stored_sizes": {"stored_sizes": manifest.stored_sizes + 1},
        "orientations": {"orientations": np.full(NUM_IMAGES, 8, np.uint8)},
        "filenames": {"filenames": tuple(f"{name}.jpg" for name in manifest.filenames)},
        "ignore": {"polygons": polygons.with_ignore(~polygons.ignore)},
        "vertices": {"polygons": replace(polygons, vertices=polygons.vertices + 1)},
    }
    for other in (manifest, replace(manifest, **changed[part])):
        write_upstage(tmp_path / "a.json", other, range(5), canonical=False, before_change=lambda: None)
        expected = upstage_document(other, range(5), canonical=False)
        assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == expected


def test_a_name_that_is_not_utf8_reads_back_as_the_same(tmp_path: Path, manifest: Manifest) -> None:
    names = ("caf\udce9.jpg", *manifest.filenames[1:])
    path = tmp_path / "a.json"
    write_upstage(path, replace(manifest, filenames=names), [0, 1], canonical=False, before_change=lambda: None)
    assert [image.filename for image in read_upstage(path)] == list(names[:2])
