"""After a change of images, annotations, settings or code, the tensor cache serves nothing stale, in the same run or the next."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageOps

from dali_pipelines.config import PipelineConfig
from ocr.cache import key
from ocr.datasets.kept_images import keep_images
from ocr.datasets.schemas import ImageLoadingConfig
from ocr.loaders.engines import Engine
from ocr.loaders.loader import BatchLoader
from ocr.targets.config import TargetConfig
from tests.ocr.loaders.batches import (
    BATCH,
    CPU,
    DISK,
    NUM_IMAGES,
    SIZE,
    assert_same,
    cached_loader,
    change_first_image,
    counts,
    images_of,
    in_folder,
    run_epoch,
)


def change_image_bytes(root: Path) -> dict:
    change_first_image(root)
    return {}


def change_word(root: Path, change) -> dict:
    path = root / "jsons" / "train.json"
    annotations = json.loads(path.read_text())
    change(next(image for image in annotations["images"].values() if image["words"])["words"]["0001"])
    path.write_text(json.dumps(annotations))
    return {}


def change_one_polygon(root: Path) -> dict:
    def move(word: dict) -> None:
        word["points"][0][0] += 3

    return change_word(root, move)


def change_a_flag(root: Path) -> dict:
    return change_word(root, lambda word: word.update(illegibility=True))


def change_image_size(root: Path) -> dict:
    return {"pipeline": PipelineConfig(image_size=160)}


def change_mean(root: Path) -> dict:
    return {"pipeline": PipelineConfig(image_size=SIZE, mean=(120, 110, 100))}


def change_std(root: Path) -> dict:
    return {"pipeline": PipelineConfig(image_size=SIZE, std=(50, 50, 50))}


def change_shrink_ratio(root: Path) -> dict:
    return {"targets": TargetConfig(map_stride=2, shrink_ratio=0.6)}


def change_dtype(root: Path) -> dict:
    return {"dtype": "uint8"}


def change_loader(root: Path) -> dict:
    return {"loader": "torch"}


def change_decoder(root: Path) -> dict:
    return {"reading": {"image_loading_config": ImageLoadingConfig(use_turbojpeg=False)}}


def change_to_decoded_images(root: Path) -> dict:
    return {"reading": {"preload_images": True}, "image_format": "decoded"}


def change_data_set(root: Path) -> dict:
    """Copies the set to another folder, with other pictures of the same sizes under the same names."""
    other = Path(shutil.copytree(root, root.parent / "other"))
    for path in (other / "images/train").iterdir():
        with Image.open(path) as image:
            ImageOps.invert(image.convert("RGB")).save(path, exif=image.getexif())
    return {"root": other}


ONE_IMAGE = (change_image_bytes, change_one_polygon, change_a_flag)
ALL_IMAGES = (
    change_image_size,
    change_mean,
    change_std,
    change_shrink_ratio,
    change_dtype,
    change_loader,
    change_decoder,
    change_to_decoded_images,
    change_data_set,
)


@pytest.mark.parametrize("change", [*ONE_IMAGE, *ALL_IMAGES])
def test_after_a_change_the_next_run_serves_nothing_stale_from_disk(copied, tmp_path, change):
    run_epoch(cached_loader(copied, directory=str(tmp_path / "cache")))
    changed = {"root": copied} | change(copied)
    again = cached_loader(directory=str(tmp_path / "cache"), **changed)
    assert_same(run_epoch(again), run_epoch(cached_loader(**changed)))
    num_changed = 1 if change in ONE_IMAGE else NUM_IMAGES
    assert counts(again) == (NUM_IMAGES - num_changed, num_changed)


def test_after_a_change_of_the_code_the_next_run_serves_nothing_stale(drawn, tmp_path, monkeypatch):
    run_epoch(cached_loader(drawn, directory=str(tmp_path / "cache")))
    monkeypatch.setattr(key, "code_digest", lambda: "other")  # test_code_digest.py says which changes give another one
    again = cached_loader(drawn, directory=str(tmp_path / "cache"))
    run_epoch(again)
    assert counts(again) == (0, NUM_IMAGES)


@pytest.mark.parametrize("settings", [{}, DISK], ids=["ram", "disk"])
def test_an_image_that_changes_during_the_run_is_recomputed(copied, tmp_path, settings):
    cached = cached_loader(copied, **in_folder(settings, tmp_path))
    before = images_of(run_epoch(cached))  # a copy: the batches are views
    change_first_image(copied)
    after = run_epoch(cached, 1)
    assert counts(cached) == (NUM_IMAGES - 1, 1)
    assert not torch.equal(images_of(after)[0], before[0])
    assert_same(after, run_epoch(cached_loader(copied)))
    run_epoch(cached, 2)
    assert counts(cached) == (NUM_IMAGES, 0)


def test_an_image_that_changes_before_it_is_read_is_not_kept_under_its_old_key(copied, tmp_path):
    cached = cached_loader(copied, loader="torch", **in_folder(DISK, tmp_path))
    batches = iter(cached)  # the keys are computed now, and each file is read for its batch
    next(batches)
    last = max((copied / "images/train").iterdir())
    with Image.open(last) as image:
        ImageOps.invert(image.convert("RGB")).save(last, exif=image.getexif())
    list(batches)
    assert len(list((tmp_path / "cache").iterdir())) == NUM_IMAGES - 1
    assert_same(run_epoch(cached, 1), run_epoch(cached_loader(copied, loader="torch")))


def test_verification_makes_a_changed_image_from_its_new_file(copied, tmp_path):
    whole = cached_loader(copied, loader="torch", verify=NUM_IMAGES, **in_folder(DISK, tmp_path))
    dataset = whole.dataset
    config = dataset.config.model_copy(update={"preload_images": True})
    dataset.kept_images = keep_images(config, dataset.manifest, device=CPU, ram_budget=10**9, device_budget=0)
    cached = BatchLoader(dataset, Engine("torch", CPU, 1), BATCH, with_targets=True, tiers=whole.cache.store.plan)
    for epoch in range(4):
        if epoch == 2:
            change_first_image(copied)  # the workers of both image loaders hold the old file
        run_epoch(cached, epoch)
    cached.close()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_changed_image_is_noticed_even_if_workers_hold_its_pixels(copied, tmp_path, num_workers):
    settings = {"loader": "torch", "num_workers": num_workers, "cache_decoded_images": True}
    cached = cached_loader(copied, **settings, **in_folder(DISK, tmp_path))
    run_epoch(cached)
    for epoch in (1, 3):
        change_first_image(copied)
        assert_same(run_epoch(cached, epoch), run_epoch(cached_loader(copied, loader="torch")))
        run_epoch(cached, epoch + 1)
        assert counts(cached) == (NUM_IMAGES, 0)
    cached.close()
    again = cached_loader(copied, loader="torch", directory=str(tmp_path / "cache"))
    assert_same(run_epoch(again), run_epoch(cached_loader(copied, loader="torch")))
