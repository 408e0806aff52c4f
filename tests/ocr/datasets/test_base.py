"""The data set by itself, as code without this project's loaders uses it."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from dali_pipelines.config import PipelineConfig
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.plan import SamplePlanner
from ocr.datasets.schemas import CacheConfig, DatasetConfig
from ocr.errors import InputError


def config_of(folder: Path, **settings) -> DatasetConfig:
    images, annotations = folder / "images" / "val", folder / "jsons" / "val.json"
    return DatasetConfig(image_path=images, annotation_path=annotations, **settings)


def test_any_callable_is_a_transform_and_images_are_preloaded(drawn: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    config = config_of(drawn, preload_images=True)
    plain = ValidatedOCRDataset(config=config, transform=lambda x: x)
    assert "Preloaded 8/8 images into RAM (100.0%)" in caplog.text
    item = plain[0]
    assert item["image"].shape == (3, 640, 640)
    assert isinstance(item["polygons"], list)
    names = ValidatedOCRDataset(config=config_of(drawn), transform=lambda x: x["filename"])
    assert names[0] == item["filename"]
    planned = ValidatedOCRDataset(config_of(drawn), SamplePlanner(PipelineConfig(), training=False, seed=0))
    assert torch.equal(planned[0]["image"], item["image"])


def test_cached_samples_are_served_before_the_callable(
    drawn: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    data = Path(shutil.copytree(drawn, tmp_path / "data"))
    seen = []

    def transform(sample: dict) -> dict:
        seen.append(sample["filename"])
        sample["polygons"].clear()
        return sample

    config = config_of(data, cache_config=CacheConfig(cache_transformed_tensors=True))
    dataset = ValidatedOCRDataset(config, transform)
    assert "Tensor caching enabled - will cache 8 transformed samples after first access" in caplog.text
    first = dataset[0]
    path = Path(dataset.manifest.image_paths[0])
    content = path.read_bytes()
    height, width = dataset.manifest.stored_image(0).size
    Image.new("RGB", (width, height)).save(path)
    changed = dataset[0]["image"]
    path.write_bytes(content)
    again = dataset[0]
    assert len(seen) == 3
    assert torch.equal(first["image"], again["image"])
    assert torch.equal(first["thresh_map"], again["thresh_map"])
    assert first["image"].dtype == torch.float32
    assert not torch.equal(first["image"], changed)


def test_a_cache_of_random_samples_is_refused(drawn: Path) -> None:
    planner = SamplePlanner(PipelineConfig(), training=True, seed=0)
    config = config_of(drawn, cache_config=CacheConfig(cache_transformed_tensors=True))
    with pytest.raises(InputError, match=r"cache_config\.cache_transformed_tensors=true, but this pipeline crops"):
        ValidatedOCRDataset(config, planner)


def test_the_default_collate_of_pytorch_batches_the_samples(drawn: Path) -> None:
    dataset = ValidatedOCRDataset(config_of(drawn), transform=lambda x: x)
    batch = next(iter(DataLoader(dataset, batch_size=4)))
    assert batch["image"].shape == (4, 3, 640, 640)
    assert batch["prob_map"].shape[0] == 4
    counts = [len(dataset[index]["polygons"]) for index in range(4)]
    assert [len(polygons) for polygons in batch["polygons"]] == counts
    assert [len(flags) for flags in batch["ignore"]] == counts
    assert len(set(counts)) > 1


def test_accesses_of_the_caches_are_logged_every_n_samples(drawn: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    cache = CacheConfig(cache_transformed_tensors=True, log_statistics_every_n=8)
    dataset = ValidatedOCRDataset(config_of(drawn, cache_config=cache, preload_images=True), lambda x: x["filename"])
    for _ in range(2):
        for index in range(len(dataset)):
            dataset[index]
    first, second = (line for line in caplog.messages if line.startswith("Cache Statistics - "))
    sizes = "Image Cache Size: 8, Tensor Cache Size: 8, Maps Cache Size: 0"
    assert first.startswith(f"Cache Statistics - Hits: 0, Misses: 8, Hit Rate: 0.0%, {sizes}")
    assert second.startswith(f"Cache Statistics - Hits: 8, Misses: 0, Hit Rate: 100.0%, {sizes}")


@pytest.mark.parametrize("filled_by", ["workers", "prenormalize_images"])
def test_the_cache_of_samples_is_filled_by_workers_or_before(
    drawn: Path, caplog: pytest.LogCaptureFixture, filled_by: str
) -> None:
    caplog.set_level(logging.INFO)
    cache = CacheConfig(cache_transformed_tensors=True)
    config = config_of(drawn, cache_config=cache, prenormalize_images=filled_by == "prenormalize_images")
    dataset = ValidatedOCRDataset(config, lambda x: x)
    if filled_by == "workers":
        for _ in DataLoader(dataset, batch_size=2, num_workers=1, multiprocessing_context="fork"):
            pass
    for index in range(len(dataset)):
        dataset[index]
    (line,) = (line for line in caplog.messages if line.startswith("Cache Statistics - "))  # once an epoch
    assert line.startswith("Cache Statistics - Hits: 8, Misses: 0, Hit Rate: 100.0%")
    assert "Tensor Cache Size: 8" in line


def test_cache_settings_that_only_runs_use_are_named(drawn: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = CacheConfig(cache_transformed_tensors=True, dtype="uint8", device_budget=1, verify=2)
    ValidatedOCRDataset(config_of(drawn, cache_config=cache), lambda x: x)
    keys = "cache_config.dtype, cache_config.device_budget, cache_config.verify"
    assert f"use these settings, ignored here: {keys}" in caplog.text


def num_bytes_of_a_sample(drawn: Path) -> int:
    sample = ValidatedOCRDataset(config_of(drawn), lambda x: x)[0]
    return sum(2 * value.numel() for value in sample.values() if torch.is_tensor(value))


def test_the_log_says_how_many_samples_do_not_fit_into_the_budget(
    drawn: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    cache = CacheConfig(cache_transformed_tensors=True, ram_budget=3 * num_bytes_of_a_sample(drawn))
    ValidatedOCRDataset(config_of(drawn, cache_config=cache), lambda x: x)
    assert "will cache 3 transformed samples" in caplog.text
    assert "5 of 8 do not fit into memory; they are made again in every epoch" in caplog.text


def test_images_that_are_decoded_later_count_in_the_budget(drawn: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    sizes = ValidatedOCRDataset(config_of(drawn), lambda x: x).manifest.original_sizes
    budget = max(3 * int(np.prod(sizes, axis=1).sum()), num_bytes_of_a_sample(drawn))
    cache = CacheConfig(cache_transformed_tensors=True, cache_decoded_images=True, ram_budget=budget)
    ValidatedOCRDataset(config_of(drawn, cache_config=cache), lambda x: x)
    assert "will keep 8 of 8 decoded images" in caplog.text
    assert "will cache 0 transformed samples" in caplog.text
