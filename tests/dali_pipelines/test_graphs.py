"""The graphs of the GPU, built and, as far as that goes without one, run on DALI's CPU backend."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from nvidia.dali import types
from nvidia.dali.pipeline import Pipeline
from PIL import Image

from dali_pipelines import steps
from dali_pipelines.config import PipelineConfig
from dali_pipelines.eval import eval_pipeline
from dali_pipelines.feed import SampleArrays
from dali_pipelines.loader import DaliLoader
from dali_pipelines.source import SourceImages
from dali_pipelines.train import train_pipeline
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.plan import EpochPlan, SamplePlanner
from ocr.datasets.schemas import DatasetConfig

SIZE = 64
DTYPES = {"float16": types.FLOAT16, "float32": types.FLOAT, "uint8": types.UINT8}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ValidatedOCRDataset:
    """Three pictures of noise, one of them turned by EXIF."""
    folder = tmp_path_factory.mktemp("noise")
    rng = np.random.default_rng(0)
    for name, size in (("a", (90, 120)), ("b", (70, 50)), ("c", (40, 100))):
        exif = Image.Exif()
        exif[0x0112] = 6 if name == "c" else 1
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(folder / f"{name}.jpg", exif=exif)
    return ValidatedOCRDataset(DatasetConfig(image_path=str(folder)), planner(training=False))


def planner(training: bool) -> SamplePlanner:
    return SamplePlanner(PipelineConfig(image_size=SIZE), training=training, seed=1)


def feed(dataset: ValidatedOCRDataset, training: bool) -> steps.Feed:
    """One batch of all pictures."""
    arrays = SampleArrays(SourceImages(dataset.manifest.image_paths), training=training)
    samples = EpochPlan(dataset.manifest, planner(training), epoch=0, batch_size=3).batch(0)
    return steps.Feed(lambda: arrays.for_batch(samples)[0])


def output(graph: Callable[..., Pipeline], dataset: ValidatedOCRDataset, layout: str, dtype: str) -> np.ndarray:
    """Of the graph that a GPU runs, its operators on the CPU."""
    config = PipelineConfig(image_size=SIZE, output_layout=layout)
    pipeline = graph(
        feed=feed(dataset, training=graph is train_pipeline),
        config=config,
        on_gpu=False,
        dtype=DTYPES[dtype],
        batch_size=3,
        num_threads=1,
        device_id=None,
    )
    (images,) = pipeline.run()
    assert images.layout() == layout
    return images.as_array()


@pytest.mark.parametrize(("graph", "dtype"), [(train_pipeline, "float16"), (eval_pipeline, "float32")])
def test_pixel_by_pixel_is_the_planes_transposed(graph, dtype, dataset):
    in_planes, in_pixels = (output(graph, dataset, layout, dtype) for layout in ("CHW", "HWC"))
    assert in_planes.shape == (3, 3, SIZE, SIZE)
    assert in_planes.std() > 0.3
    np.testing.assert_array_equal(in_pixels.transpose(0, 3, 1, 2), in_planes)


def test_levels_too(dataset):
    in_planes, in_pixels = (output(eval_pipeline, dataset, layout, "uint8") for layout in ("CHW", "HWC"))
    np.testing.assert_array_equal(in_pixels.transpose(0, 3, 1, 2), in_planes)
    assert in_planes.max() > 100


def given_to_the_decoder(dataset: ValidatedOCRDataset, config: PipelineConfig) -> dict[str, int]:
    """The hints in the graph as DALI gets it; it can be built without a GPU, not run."""
    graph = eval_pipeline(
        feed=feed(dataset, training=False),
        config=config,
        on_gpu=True,
        dtype=types.FLOAT16,
        largest_stored=dataset.manifest.largest_stored,
        batch_size=3,
        num_threads=1,
        device_id=None,
    ).serialize()
    return {side: _int_argument(graph, f"preallocate_{side}_hint".encode()) for side in ("height", "width")}


def _int_argument(graph: bytes, name: bytes) -> int:
    """A protobuf varint after the name and the type of the argument."""
    place = graph.index(name + b"\x12\x05int64 ") + len(name) + 8
    value = shift = 0
    while True:
        byte = graph[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value
        place, shift = place + 1, shift + 7


def test_the_jpeg_engines_are_told_the_largest_stored_size(dataset):
    """Rows of a, columns of a: c is stored 40 x 100, and 100 x 40 only when upright."""
    config = PipelineConfig(image_size=SIZE, preallocate_decoder=True)
    assert given_to_the_decoder(dataset, config) == {"height": 90, "width": 120}


def test_by_default_they_are_told_nothing(dataset):
    assert given_to_the_decoder(dataset, PipelineConfig(image_size=SIZE)) == {"height": 0, "width": 0}


@pytest.mark.gpu
@pytest.mark.parametrize("training", [True, False])
def test_layout_and_hints_leave_the_pixels_of_a_gpu_as_they_are(training, dataset):
    images = []
    for config in (
        PipelineConfig(image_size=SIZE),
        PipelineConfig(image_size=SIZE, output_layout="HWC", preallocate_decoder=True),
    ):
        loader = DaliLoader(
            SourceImages(dataset.manifest.image_paths, largest_stored=dataset.manifest.largest_stored),
            config,
            training=training,
            batch_size=3,
            device=torch.device("cuda", 0),
        )
        (batch,) = loader.batches(EpochPlan(dataset.manifest, planner(training), epoch=0, batch_size=3))
        images.append(batch.images)
        loader.release()
    in_planes, in_pixels = images
    assert in_planes.is_contiguous()
    assert in_pixels.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(in_planes, in_pixels)
