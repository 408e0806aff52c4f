"""Data that vanishes during a run: the run waits for it, and ends if it does not come back."""

import logging
from pathlib import Path

import pytest

from dali_pipelines.config import PipelineConfig
from dali_pipelines.source import SampleError
from ocr.datasets.audit import load_manifest
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.manifest import Manifest
from ocr.datasets.plan import SamplePlanner
from ocr.datasets.schemas import DatasetConfig
from ocr.datasets.shards import images
from ocr.datasets.shards.images import load_shards
from ocr.datasets.shards.writer import ShardWriter
from ocr.errors import StorageError
from ocr.loaders.batch import Batch
from ocr.loaders.engines import Engine
from ocr.loaders.loader import BatchLoader
from tests.ocr.loaders.batches import CPU, assert_same, cached_loader, run_epoch

CONFIG = PipelineConfig(image_size=96)
LOADERS = ["dali", "torch", "shards"]
BATCH_SIZES = {"dali": 1, "torch": 3, "shards": 1}
"""DALI and the reading threads are some batches ahead."""


@pytest.fixture(autouse=True)
def short_read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "NUM_FETCHED_AHEAD", 1)


def images_folder(root: Path) -> Path:
    return root / "images" / "train"


def make_loader(
    root: Path,
    name: str,
    *,
    batch_size: int | None = None,
    training: bool = True,
    skip_failures: bool = True,
    **limits,
) -> BatchLoader:
    """Returns a loader of the drawn images, from files or from shards in the same folder."""
    config = DatasetConfig(
        image_path=str(images_folder(root)),
        annotation_path=str(root / "jsons/train.json"),
        **{"unreadable_wait_seconds": 0, **limits},
    )
    planner = SamplePlanner(CONFIG, training=training, seed=3)
    manifest = None
    if name == "shards":
        folder = images_folder(root).with_name("shards")
        if not folder.is_dir():
            write_shards(load_manifest(config, max_megapixels=100)[0], folder)
        manifest, _ = load_shards(str(folder))
    dataset = ValidatedOCRDataset(config, planner, manifest=manifest)
    engine = Engine("torch" if name == "torch" else "dali", CPU, skip_failures=skip_failures)
    loader = BatchLoader(dataset, engine, batch_size or BATCH_SIZES[name], with_targets=True)
    loader.num_epochs = 3  # so that the end of an epoch overlaps with the start of the next one
    return loader


def write_shards(manifest: Manifest, folder: Path) -> None:
    ShardWriter(manifest, folder, "train", 10**9).write_all()


def folder_of(root: Path, name: str) -> Path:
    return images_folder(root).with_name("shards") if name == "shards" else images_folder(root)


class BringsBack(logging.Handler):
    """Renames a folder back once the run says that it waits."""

    def __init__(self, away: Path, folder: Path) -> None:
        super().__init__()
        self._away, self._folder = away, folder

    def emit(self, record: logging.LogRecord) -> None:
        if "is missing; waiting" in record.getMessage():
            self._away.rename(self._folder)


def run_with_folder_away(loader: BatchLoader, folder: Path, *, comes_back: bool) -> list[Batch]:
    """Renames the folder after the first batch."""
    away, log = folder.with_name("away"), logging.getLogger("ocr.loaders.read_guard")
    handler = BringsBack(away, folder)
    batches = iter(loader)
    seen = [next(batches)]
    folder.rename(away)
    if comes_back:
        log.addHandler(handler)
    try:
        return seen + list(batches)
    finally:
        log.removeHandler(handler)
        if away.exists():
            away.rename(folder)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", LOADERS)
def test_a_folder_that_vanishes_ends_the_run(name, training, copied):
    loader = make_loader(copied, name, training=training)
    folder = folder_of(copied, name)
    with pytest.raises(StorageError) as error:
        run_with_folder_away(loader, folder, comes_back=False)
    message = str(error.value)
    assert message.startswith(f"{folder}: ")
    assert "cannot be read any more" in message
    assert any(f"The first is {path}: " in message for path in loader.dataset.manifest.image_paths)


@pytest.mark.parametrize("name", LOADERS)
def test_an_iteration_ends_when_its_loader_is_closed(name, copied):
    loader = make_loader(copied, name)
    batches = iter(loader)
    next(batches)
    loader.close()
    assert list(batches) == []


@pytest.mark.parametrize("name", LOADERS)
def test_a_folder_that_comes_back_costs_no_image(name, copied, caplog):
    expected = list(make_loader(copied, name))
    loader = make_loader(copied, name, unreadable_wait_seconds=30)
    with caplog.at_level(logging.WARNING, logger="ocr.loaders.read_guard"):
        found = run_with_folder_away(loader, folder_of(copied, name), comes_back=True)
    assert_same(found, expected)
    said = [record.message for record in caplog.records if record.name == "ocr.loaders.read_guard"]
    assert len(said) == 2
    assert "is missing; waiting up to 30 s for it to come back" in said[0]
    assert "is back; continuing" in said[1]
    assert not loader.failures
    assert_same(run_epoch(loader), expected)


@pytest.mark.parametrize("name", LOADERS)
def test_a_folder_that_comes_back_is_waited_for_where_one_bad_file_ends_a_run(name, copied):
    expected = list(make_loader(copied, name))
    strict = make_loader(copied, name, skip_failures=False, unreadable_wait_seconds=30)
    assert_same(run_with_folder_away(strict, folder_of(copied, name), comes_back=True), expected)
    strict = make_loader(copied, name, skip_failures=False)
    with pytest.raises(SampleError):
        run_with_folder_away(strict, folder_of(copied, name), comes_back=False)


def test_a_cached_split_ends_the_run_too(copied):
    loader = cached_loader(copied, budget_entries=0, wait_seconds=0)
    run_epoch(loader)
    images_folder(copied).rename(copied / "away")
    with pytest.raises(StorageError, match="in epoch 1 cannot be read any more"):
        run_epoch(loader, 1)


def damage(loader: BatchLoader, count: int) -> None:
    """Cuts the files of some samples, spread over the batches."""
    for path in loader.dataset.manifest.image_paths[:count]:
        Path(path).write_bytes(Path(path).read_bytes()[:1000])


def test_the_limits_of_a_cached_split_are_shares_of_all_its_images(copied):
    """The second epoch reads only the two files that have changed."""
    loader = cached_loader(copied, reading={"max_unreadable_epoch": 0.5})
    run_epoch(loader)
    damage(loader, 2)
    assert sum(batch.samples.has_failed.sum() for batch in run_epoch(loader, 1)) == 2


@pytest.mark.parametrize("name", ["dali", "torch"])
def test_one_damaged_file_never_ends_a_run(name, copied):
    loader = make_loader(copied, name, batch_size=1)
    damage(loader, 1)
    assert sum(batch.samples.has_failed.sum() for batch in loader) == 1


@pytest.mark.parametrize("name", ["dali", "torch"])
@pytest.mark.parametrize("share", [0.2, 0.3])
def test_the_share_of_an_epoch_is_a_setting(share, name, copied):
    loader = make_loader(copied, name, batch_size=5, max_unreadable_epoch=share)
    damage(loader, 3)
    if share == 0.3:
        assert sum(batch.samples.has_failed.sum() for batch in loader) == 3
        return
    with pytest.raises(StorageError, match=r"3 of 10 in this epoch\. The first is .*\.jpg: .*Make the files readable"):
        list(loader)


def test_a_short_last_batch_may_fail_as_a_whole(copied):
    loader = make_loader(copied, "torch", batch_size=4, training=False, max_unreadable_epoch=1)
    for path in loader.dataset.manifest.image_paths[8:]:
        Path(path).write_bytes(Path(path).read_bytes()[:1000])
    assert [batch.samples.has_failed.sum() for batch in loader] == [0, 0, 2]


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_the_share_of_a_batch_is_a_setting(share, copied):
    loader = make_loader(copied, "torch", batch_size=10, max_unreadable_epoch=1, max_unreadable_batch=share)
    damage(loader, 5)
    if share == 1.0:
        assert sum(batch.samples.has_failed.sum() for batch in loader) == 5
        return
    with pytest.raises(StorageError, match="5 of the 10 images of batch 0 in epoch 0 cannot be read"):
        list(loader)
