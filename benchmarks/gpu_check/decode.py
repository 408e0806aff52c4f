"""JPEGs of every chroma sampling, decoded by DALI on the GPU and on the CPU: how far the pixels are apart, and how fast it is.

On the CPU: DALI against Pillow, as loader=torch decodes where libjpeg-turbo is not asked for.
"""

import io
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch
from nvidia.dali.pipeline import Pipeline
from PIL import Image

from benchmarks.gpu_check.figures import Figures, Keep
from benchmarks.gpu_check.images import device_of, drawn
from benchmarks.gpu_check.settings import CheckSettings
from dali_pipelines.config import PipelineConfig, default_num_threads
from dali_pipelines.decode import decode_pipeline

CPU = torch.device("cpu")
Pixels = npt.NDArray[np.uint8]
Content = npt.NDArray[np.uint8]

SAMPLINGS = {"4:4:4": "444", "4:2:2": "422", "4:2:0": "420", "4:4:0": "440", "4:1:1": "411", "grey": "Gray"}
"""By simplejpeg's names."""
QUALITY = 90


def measure(settings: CheckSettings, keep: Keep) -> None:
    device = device_of(settings)
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in _photos(settings)]
    rounds = 1 if settings.short else 3
    files = {name: [_encoded(picture, sampling) for picture in pictures] for name, sampling in SAMPLINGS.items()}
    files["progressive 4:2:0"] = [_progressive(picture) for picture in pictures]
    rows: list[Figures] = []
    for sampling, contents in files.items():
        for fancy in (True,) if device.type == "cpu" else (True, False):  # the CPU decoder does not know the other
            on_cpu = PipelineConfig(jpeg_fancy_upsampling=fancy)
            if device.type == "cpu":
                rows.append(
                    {"sampling": sampling, "fancy_upsampling": fancy, "against": "Pillow"}
                    | _compared(contents, on_cpu, device, [_by_pillow(content) for content in contents], rounds)
                )
                continue
            expected = _pixels(_pipeline(contents, PipelineConfig(jpeg_fancy_upsampling=True), CPU), CPU)
            for load in (0.0, 0.65, 1.0):
                config = on_cpu.model_copy(update={"hw_decoder_load": load})
                rows.append(
                    {"sampling": sampling, "fancy_upsampling": fancy, "hw_decoder_load": load, "against": "CPU"}
                    | _compared(contents, config, device, expected, rounds)
                )
        keep({"images": len(pictures), "rows": rows})


def _photos(settings: CheckSettings) -> Sequence[Path]:
    photos = sorted((drawn(settings) / "images" / "train").glob("*.jpg"))
    return photos[: 4 if settings.cpu else 32]


def _encoded(picture: Pixels, sampling: str) -> Content:
    if sampling == "Gray":
        grey = np.asarray(Image.fromarray(picture).convert("L"))[:, :, None]
        encoded = simplejpeg.encode_jpeg(np.ascontiguousarray(grey), QUALITY, "GRAY", "Gray")
    else:
        encoded = simplejpeg.encode_jpeg(np.ascontiguousarray(picture), QUALITY, "RGB", sampling)
    return np.frombuffer(encoded, np.uint8)


def _progressive(picture: Pixels) -> Content:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=QUALITY, progressive=True, subsampling=2)
    return np.frombuffer(file.getvalue(), np.uint8)


def _by_pillow(content: Content) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(content.tobytes())).convert("RGB"))


def _compared(
    contents: Sequence[Content], config: PipelineConfig, device: torch.device, expected: Sequence[Pixels], rounds: int
) -> Figures:
    """Differences in levels, and images a second of each round."""
    pipeline = _pipeline(contents, config, device)
    differences = [
        np.abs(found.astype(np.int16) - wanted)
        for found, wanted in zip(_pixels(pipeline, device), expected, strict=True)
    ]
    speeds = []
    batches = 1 if device.type == "cpu" else 8
    for _ in range(rounds):
        started = time.perf_counter()
        for _ in range(batches):
            pipeline.run()  # without a stream it returns when the pixels are there
        speeds.append(batches * len(contents) / (time.perf_counter() - started))
    return {
        "mean_levels": float(np.mean([difference.mean() for difference in differences])),
        "max_levels": int(max(difference.max() for difference in differences)),
        "images_per_second": speeds,
    }


def _pixels(pipeline: Pipeline, device: torch.device) -> list[Pixels]:
    (images,) = pipeline.run()
    return [np.array(image) for image in (images.as_cpu() if device.type == "cuda" else images)]


def _pipeline(contents: Sequence[Content], config: PipelineConfig, device: torch.device) -> Pipeline:
    """Decodes the same batch again and again."""
    return decode_pipeline(
        next_batch=lambda: (list(contents),),
        config=config,
        on_gpu=device.type == "cuda",
        is_path=False,
        batch_size=len(contents),
        num_threads=default_num_threads(),
        device_id=(device.index or 0) if device.type == "cuda" else None,
        prefetch_queue_depth=1,  # with more, the first batches of a round were decoded before it
    )
