"""Inputs pixel by pixel instead of in planes: the same numbers, from each loader and through the tensor cache."""

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
from ocr.synthetic.config import SyntheticConfig
from ocr.synthetic.data_set import draw_data_set

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> ValidatedOCRDataset:
    root = tmp_path_factory.mktemp("drawn")
    draw_data_set(SyntheticConfig(num_train=1, num_val=3, exif_share=0.5), root, num_workers=1)
    config = DatasetConfig(image_path=str(root / "images/val"), annotation_path=str(root / "jsons/val.json"))
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
        tiers = plan_tiers(layout, len(dataset), 2, cache, CPU, FreeMemory(gpu=0, ram=10**9))
    return BatchLoader(dataset, Engine(loader, CPU), batch_size=2, with_targets=True, tiers=tiers)


def images_of(loader: BatchLoader, num_epochs: int = 1) -> list[torch.Tensor]:
    found = [batch.images.clone() for _ in range(num_epochs) for batch in loader]
    loader.close()
    return found


@pytest.mark.parametrize("loader", ["dali", "torch"])
@pytest.mark.parametrize("training", [True, False])
def test_a_loader_gives_the_same_numbers_in_either_layout(drawn, loader, training):
    in_planes, in_pixels = (
        images_of(make_loader(with_layout(drawn, layout, training), loader)) for layout in ("CHW", "HWC")
    )
    assert [len(images) for images in in_planes] == [2, 1]
    for planes, pixels in zip(in_planes, in_pixels, strict=True):
        assert planes.std() > 0.1
        assert planes.is_contiguous()
        assert pixels.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(planes, pixels)


@pytest.mark.parametrize("dtype", ["float16", "uint8"])
def test_the_cache_keeps_planes_whatever_it_is_given(drawn, dtype, tmp_path):
    """And entries on disk that were made from one layout serve a run with the other."""
    expected = images_of(make_loader(with_layout(drawn, "CHW", dtype=dtype)), num_epochs=2)
    found = images_of(make_loader(with_layout(drawn, "HWC", dtype=dtype, directory=str(tmp_path))), num_epochs=2)
    later = make_loader(with_layout(drawn, "CHW", dtype=dtype, directory=str(tmp_path), verify=3))
    found_later = images_of(later, num_epochs=2)
    assert later.statistics.misses == 0
    for one, other, third in zip(expected, found, found_later, strict=True):
        assert other.is_contiguous()
        assert torch.equal(one, other)
        assert torch.equal(one, third)


@pytest.mark.parametrize("dtype", ["float16", "uint8"])
def test_batches_that_have_no_place_in_the_cache_are_in_planes_too(drawn, dtype):
    expected = images_of(make_loader(with_layout(drawn, "CHW", dtype=dtype, ram_budget=0)))
    found = images_of(make_loader(with_layout(drawn, "HWC", dtype=dtype, ram_budget=0)))
    for one, other in zip(expected, found, strict=True):
        assert other.is_contiguous()
        assert torch.equal(one, other)


def test_a_file_that_fails_leaves_the_layout_as_it_is(drawn, tmp_path):
    """Its batch is put together anew, sample by sample."""
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(Path(drawn.manifest.image_paths[1]).read_bytes()[:2000])
    dataset = with_layout(drawn, "HWC")
    paths = (dataset.manifest.image_paths[0], str(broken), dataset.manifest.image_paths[2])
    dataset.manifest = replace(dataset.manifest, image_paths=paths)
    loader = make_loader(dataset)
    first, _ = images_of(loader)
    (name,) = loader.failures
    assert name == str(broken)
    assert first.is_contiguous(memory_format=torch.channels_last)
