"""A GPU's way through the loader, with DALI's CPU operators in its graph: everything but the device and its streams is real."""

from pathlib import Path

import pytest
import torch

from dali_pipelines import graphs
from dali_pipelines.config import PipelineConfig
from dali_pipelines.eval import eval_pipeline
from dali_pipelines.feed import BatchFeed, SampleArrays
from dali_pipelines.loader import DaliLoader
from dali_pipelines.outputs import GpuOutputs
from dali_pipelines.source import SourceImages
from dali_pipelines.train import train_pipeline
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.kept_images import DecodedImages, ImageCache
from ocr.datasets.manifest import Manifest
from ocr.datasets.plan import EpochPlan, SamplePlanner
from ocr.datasets.schemas import DatasetConfig

CPU = torch.device("cpu")
CONFIG = PipelineConfig(image_size=64, output_layout="HWC")
PLANNERS = {training: SamplePlanner(CONFIG, training=training, seed=3) for training in (True, False)}
MAX_MEAN_DIFFERENCE = 0.3
"""Mean difference between the two ways to render an image on a CPU, in levels."""


@pytest.fixture(scope="module")
def manifest(drawn: Path) -> Manifest:
    return ValidatedOCRDataset(DatasetConfig(image_path=str(drawn / "images" / "train")), PLANNERS[False]).manifest


def images_of(loader: DaliLoader, manifest: Manifest, epoch: int) -> torch.Tensor:
    plan = EpochPlan(manifest, PLANNERS[loader.training], epoch=epoch, batch_size=4)
    return torch.cat([batch.images for batch in loader.batches(plan)])


def way_of_a_gpu(loader: DaliLoader, patch: pytest.MonkeyPatch) -> DaliLoader:
    """Gives a CPU's loader the parts that a GPU's has."""

    def build(builder, feed, batch_size):
        graph = train_pipeline if builder.training else eval_pipeline
        options = {"feed": feed, "config": CONFIG, "batch_size": batch_size, **builder._resources()}
        pipeline = graph(on_gpu=False, dtype=graphs._DALI_TYPE[builder.dtype], **options)
        pipeline.build()
        return pipeline

    patch.setattr(graphs.GraphBuilder, "build", build)
    patch.setattr(GpuOutputs, "_stream", lambda outputs: None)
    loader._arrays = SampleArrays(loader.images, training=loader.training, max_pixels=loader._arrays.max_pixels)
    loader._feed = BatchFeed(loader._arrays)
    loader._outputs = GpuOutputs(loader.images, CONFIG, CPU)
    return loader


@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("max_batch_pixels", [1e9, 2e5])
@pytest.mark.parametrize(("training", "levels"), [(True, False), (False, False), (False, True)])
def test_the_way_of_a_gpu_gives_the_images_of_a_cpu(training, levels, max_batch_pixels, keeps, manifest, monkeypatch):
    """With few pixels to decode at once, some images are rendered alone; kept images come from memory in epoch 1."""

    def make_loader() -> DaliLoader:
        kept = (
            ImageCache(manifest.image_paths, pixels=DecodedImages(manifest.original_sizes, 10**9, CPU))
            if keeps
            else None
        )
        stored = (manifest.largest_stored, manifest.stored_sizes, manifest.orientations)
        images = SourceImages(manifest.image_paths, kept, *stored)
        config = CONFIG.model_copy(update={"max_batch_megapixels": max_batch_pixels / 1e6})
        return DaliLoader(images, config, training=training, batch_size=4, device=CPU, levels=levels)

    on_cpu = make_loader()
    expected = [images_of(on_cpu, manifest, epoch) for epoch in (0, 1)]
    on_gpu = way_of_a_gpu(make_loader(), monkeypatch)
    for epoch, images in enumerate(expected):
        found = images_of(on_gpu, manifest, epoch)
        assert (found.dtype, found.shape) == (images.dtype, images.shape)
        assert found.is_contiguous(memory_format=torch.channels_last)
        difference = (found.float() - images.float()).abs().mean()
        assert difference * (1 if levels else max(CONFIG.std)) < MAX_MEAN_DIFFERENCE
    if keeps:
        assert on_gpu.images.kept.num_images == len(manifest)
    assert on_gpu.failures == {}
