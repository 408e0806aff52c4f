"""The graphs of a GPU, built, and run on DALI's CPU backend as far as possible without a GPU."""

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
from tests.dali_pipelines.serialised import read_graph
from tests.programs import Program

SIZE = 64
DTYPES = {"float16": types.FLOAT16, "float32": types.FLOAT, "uint8": types.UINT8}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ValidatedOCRDataset:
    """Three images of noise, one of them rotated by EXIF."""
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
    """Returns the feed of one batch with all images."""
    arrays = SampleArrays(SourceImages(dataset.manifest.image_paths), training=training)
    samples = EpochPlan(dataset.manifest, planner(training), epoch=0, batch_size=3).batch(0)
    return steps.Feed(lambda: arrays.for_batch(samples)[0])


def output(graph: Callable[..., Pipeline], dataset: ValidatedOCRDataset, layout: str, dtype: str) -> np.ndarray:
    """Returns the output of a GPU's graph, run by DALI's CPU operators."""
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
def test_hwc_equals_chw_transposed(graph, dtype, dataset):
    in_planes, in_pixels = (output(graph, dataset, layout, dtype) for layout in ("CHW", "HWC"))
    assert in_planes.shape == (3, 3, SIZE, SIZE)
    assert in_planes.std() > 0.3
    np.testing.assert_array_equal(in_pixels.transpose(0, 3, 1, 2), in_planes)


def test_hwc_levels_equal_chw_levels_transposed(dataset):
    in_planes, in_pixels = (output(eval_pipeline, dataset, layout, "uint8") for layout in ("CHW", "HWC"))
    np.testing.assert_array_equal(in_pixels.transpose(0, 3, 1, 2), in_planes)
    assert in_planes.max() > 100


def decoder_hints(dataset: ValidatedOCRDataset, config: PipelineConfig) -> dict[str, int]:
    """Returns the hints in the serialised graph, which can be built without a GPU but not run."""
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
    arguments = read_graph(graph).named("decoders__Image").arguments
    return {side: arguments[f"preallocate_{side}_hint"] for side in ("height", "width")}


def test_decoder_hints_are_the_largest_stored_size(dataset):
    """Both sides are those of image a. Image c is stored as 40 x 100 and becomes 100 x 40 only when upright."""
    config = PipelineConfig(image_size=SIZE, preallocate_decoder=True)
    assert decoder_hints(dataset, config) == {"height": 90, "width": 120}


def test_decoder_hints_are_zero_by_default(dataset):
    assert decoder_hints(dataset, PipelineConfig(image_size=SIZE)) == {"height": 0, "width": 0}


@pytest.mark.gpu
@pytest.mark.parametrize("training", [True, False])
def test_layout_and_hints_do_not_change_pixels_on_a_gpu(training, dataset):
    images = []
    # One kind of decoder for all images: with a share for each, which one takes an image is not fixed.
    for config in (
        PipelineConfig(image_size=SIZE, hw_decoder_load=1.0),
        PipelineConfig(image_size=SIZE, hw_decoder_load=1.0, output_layout="HWC", preallocate_decoder=True),
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


BUILD_GRAPHS = """
import sys, tempfile
import numpy as np, torch
from dali_pipelines import steps
from dali_pipelines.config import PipelineConfig
from dali_pipelines.graphs import GraphBuilder

tempfile.tempdir, sys.dont_write_bytecode = sys.argv[1], False
builder = GraphBuilder(PipelineConfig(), False, torch.device("cpu"), torch.float32)
content = np.zeros(1, np.uint8)
builder.build(steps.Feed(lambda: ([content],)), batch_size=1)
builder.build_decoder(lambda: ([content],), is_path=True)
"""
"""Builds both graphs of a CPU with the first argument as the folder of temporary files."""


def test_graphs_leave_no_generated_files_behind(tmp_path):
    script, temporary = tmp_path / "build_graphs.py", tmp_path / "temporary"
    script.write_text(BUILD_GRAPHS)
    temporary.mkdir()
    # A forked process ends without the exit handlers with which DALI removes its files.
    done = Program(script, str(temporary), cwd=tmp_path).wait()
    assert (done.returncode, done.stderr) == (0, "")
    assert [path for path in temporary.rglob("*") if path.is_file()] == []
