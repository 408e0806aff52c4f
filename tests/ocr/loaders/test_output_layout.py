"""pipeline.output_layout=HWC gives the same numbers as CHW, from each loader and through the tensor cache."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dali_pipelines.config import PipelineConfig
from ocr.cache.budget import FreeMemory, plan_tiers
from ocr.cache.entry import entry_layout
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.plan import SamplePlanner
from ocr.datasets.schemas import CacheConfig, DatasetConfig
from ocr.loaders.engines import Engine
from ocr.loaders.loader import BatchLoader

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def dataset(drawn: Path) -> ValidatedOCRDataset:
    """Eight images, half of them rotated by EXIF."""
    config = DatasetConfig(image_path=str(drawn / "images/val"), annotation_path=str(drawn / "jsons/val.json"))
    return ValidatedOCRDataset(config, SamplePlanner(PipelineConfig(), training=False, seed=2))


def with_layout(dataset: ValidatedOCRDataset, layout: str, training: bool = False, **cache) -> ValidatedOCRDataset:
    pipeline = PipelineConfig(image_size=96, output_layout=layout)
    config = dataset.config.model_copy(
        update={"cache_config": CacheConfig(cache_transformed_tensors=bool(cache), **cache)}
    )
    return ValidatedOCRDataset(
        config, SamplePlanner(pipeline, training=training, seed=2), manifest=replace(dataset.manifest)
    )


def make_loader(dataset: ValidatedOCRDataset, loader: str = "dali") -> BatchLoader:
    tiers, cache = None, dataset.config.cache_config
    if cache.cache_transformed_tensors:
        layout = entry_layout(dataset, with_targets=True)
        tiers = plan_tiers(layout, len(dataset), 3, cache, CPU, FreeMemory(gpu=0, ram=10**9))
    return BatchLoader(dataset, Engine(loader, CPU), batch_size=3, with_targets=True, tiers=tiers)


def images_of(loader: BatchLoader, num_epochs: int = 1) -> list[torch.Tensor]:
    found = [batch.images.clone() for _ in range(num_epochs) for batch in loader]
    loader.close()
    return found


@pytest.mark.parametrize("loader", ["dali", "torch"])
@pytest.mark.parametrize("training", [True, False])
def test_a_loader_gives_the_same_numbers_in_either_layout(dataset, loader, training):
    in_planes, in_pixels = (
        images_of(make_loader(with_layout(dataset, layout, training), loader)) for layout in ("CHW", "HWC")
    )
    assert [len(images) for images in in_planes] == [3, 3, 2]
    for planes, pixels in zip(in_planes, in_pixels, strict=True):
        assert planes.std() > 0.1
        assert planes.is_contiguous()
        assert pixels.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(planes, pixels)


@pytest.mark.parametrize("dtype", ["float16", "uint8"])
def test_the_cache_stores_planes_in_either_layout(dataset, dtype, tmp_path):
    """Entries on disk that were made in one layout also serve a run with the other."""
    expected = images_of(make_loader(with_layout(dataset, "CHW", dtype=dtype)), num_epochs=2)
    found = images_of(make_loader(with_layout(dataset, "HWC", dtype=dtype, directory=str(tmp_path))), num_epochs=2)
    later = make_loader(with_layout(dataset, "CHW", dtype=dtype, directory=str(tmp_path), verify=8))
    found_later = images_of(later, num_epochs=2)
    assert later.statistics.misses == 0
    for one, other, third in zip(expected, found, found_later, strict=True):
        assert other.is_contiguous()
        assert torch.equal(one, other)
        assert torch.equal(one, third)


@pytest.mark.parametrize("dtype", ["float16", "uint8"])
def test_batches_without_a_place_in_the_cache_are_in_planes_too(dataset, dtype):
    expected = images_of(make_loader(with_layout(dataset, "CHW", dtype=dtype, ram_budget=0)))
    found = images_of(make_loader(with_layout(dataset, "HWC", dtype=dtype, ram_budget=0)))
    for one, other in zip(expected, found, strict=True):
        assert other.is_contiguous()
        assert torch.equal(one, other)


def test_a_file_that_fails_leaves_the_layout_as_it_is(dataset, tmp_path):
    """The batch of the file is redone sample by sample."""
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(Path(dataset.manifest.image_paths[1]).read_bytes()[:2000])
    in_pixels = with_layout(dataset, "HWC")
    first, _, *others = in_pixels.manifest.image_paths
    in_pixels.manifest = replace(in_pixels.manifest, image_paths=(first, str(broken), *others))
    loader = make_loader(in_pixels)
    images, *_ = images_of(loader)
    assert list(loader.failures) == [str(broken)]
    assert images.is_contiguous(memory_format=torch.channels_last)
