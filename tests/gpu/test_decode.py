"""Decoded pixels and decoding speed, by chroma subsampling

DALI's GPU decoder against its CPU decoder; without a GPU, DALI's CPU decoder against Pillow, which agree in every pixel.
"""

import io
import time
from collections.abc import Sequence
from itertools import product

import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg
import torch
from nvidia.dali.pipeline import Pipeline
from PIL import Image

from dali_pipelines.config import PipelineConfig, default_num_threads
from dali_pipelines.decode import decode_pipeline

Pixels = npt.NDArray[np.uint8]
Content = npt.NDArray[np.uint8]
CPU = torch.device("cpu")

MAX_MEAN_DIFFERENCE = 0.5
"""Mean difference between GPU and CPU pixels with fancy upsampling, in levels."""
SUBSAMPLINGS = {"4:4:4": "444", "4:2:2": "422", "4:2:0": "420", "4:4:0": "440", "4:1:1": "411", "grey": "Gray"}
"""simplejpeg's name of each subsampling."""
QUALITY = 90


@pytest.fixture(scope="module")
def pictures(drawn_set, on_cpu) -> list[Pixels]:
    photos = sorted((drawn_set / "images" / "train").glob("*.jpg"))[: 4 if on_cpu else 32]
    return [np.asarray(Image.open(path).convert("RGB")) for path in photos]


@pytest.mark.gpu
@pytest.mark.parametrize("subsampling", [*SUBSAMPLINGS, "progressive 4:2:0"])
def test_decoded_pixels_agree(subsampling, pictures, device, short, record):
    files = [_encoded(picture, subsampling) for picture in pictures]
    rounds = 1 if short else 3
    if device.type == "cpu":
        expected = [np.asarray(Image.open(io.BytesIO(file.tobytes())).convert("RGB")) for file in files]
        mean, _, speeds = _decode(files, PipelineConfig(), device, expected, rounds)
        record("mean difference from Pillow", mean, "levels", at_most=0)
        record("speed", speeds, "images/s")
        return
    expected = _pixels(_pipeline(files, PipelineConfig(jpeg_fancy_upsampling=True), CPU), CPU)
    for fancy, load in product((True, False), (0.0, 0.65, 1.0)):
        config = PipelineConfig(jpeg_fancy_upsampling=fancy, hw_decoder_load=load)
        mean, largest, speeds = _decode(files, config, device, expected, rounds)
        setting = f"{'fancy' if fancy else 'plain'} upsampling, hw_decoder_load {load}"
        limit = MAX_MEAN_DIFFERENCE if fancy else None
        record(f"mean difference, {setting}", mean, "levels", at_most=limit)
        record(f"largest difference, {setting}", largest, "levels")
        record(f"speed, {setting}", speeds, "images/s")


def _encoded(picture: Pixels, subsampling: str) -> Content:
    if subsampling.startswith("progressive"):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=QUALITY, progressive=True, subsampling=2)
        return np.frombuffer(file.getvalue(), np.uint8)
    colours = "RGB"
    if subsampling == "grey":
        colours, picture = "GRAY", np.asarray(Image.fromarray(picture).convert("L"))[:, :, None]
    encoded = simplejpeg.encode_jpeg(np.ascontiguousarray(picture), QUALITY, colours, SUBSAMPLINGS[subsampling])
    return np.frombuffer(encoded, np.uint8)


def _decode(
    files: Sequence[Content], config: PipelineConfig, device: torch.device, expected: Sequence[Pixels], rounds: int
) -> tuple[float, int, list[float]]:
    """Returns the mean and the largest difference in levels, and the images per second of each round."""
    pipeline = _pipeline(files, config, device)
    pairs = zip(_pixels(pipeline, device), expected, strict=True)
    differences = [np.abs(pixels.astype(np.int16) - wanted) for pixels, wanted in pairs]
    batches = 1 if device.type == "cpu" else 8
    speeds = []
    for _ in range(rounds):
        started = time.perf_counter()
        for _ in range(batches):
            pipeline.run()  # without a stream it returns when the pixels are there
        speeds.append(batches * len(files) / (time.perf_counter() - started))
    return float(np.mean([each.mean() for each in differences])), int(max(map(np.max, differences))), speeds


def _pixels(pipeline: Pipeline, device: torch.device) -> list[Pixels]:
    (images,) = pipeline.run()
    return [np.array(image) for image in (images.as_cpu() if device.type == "cuda" else images)]


def _pipeline(files: Sequence[Content], config: PipelineConfig, device: torch.device) -> Pipeline:
    """Returns a pipeline that decodes the same batch in each run."""
    return decode_pipeline(
        next_batch=lambda: (list(files),),
        config=config,
        on_gpu=device.type == "cuda",
        is_path=False,
        batch_size=len(files),
        num_threads=default_num_threads(),
        device_id=(device.index or 0) if device.type == "cuda" else None,
        prefetch_queue_depth=1,  # with more, the first batches of a round were decoded before it
    )
