"""Finds text through a Triton inference server: python client.py localhost:8000 IMAGE ...

It needs this project and `pip install tritonclient[http]`. metadata.json lies beside it.
"""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dali_pipelines.normalize import ImageFinisher
from dali_pipelines.rendering import render
from ocr.config import TrainConfig
from ocr.datasets.given_image import GivenImage, read_image
from ocr.datasets.plan import letterbox
from ocr.onnx_network import ProbMap
from ocr.postprocess.boxes import Detections, detect_letterboxed
from ocr.postprocess.levels import to_levels
from ocr.training.content_forward import forward_content

Infer = Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]]
"""Returns the probability maps, (B, Hm, Wm), of a batch as the server takes it."""


def find_text(image: GivenImage, metadata: Mapping[str, str], infer: Infer) -> Detections:
    """Returns the text of one image, in pixels of the upright image."""
    config = TrainConfig.model_validate_json(metadata["dali_dbnet_config"])
    pipeline = config.pipeline
    original = read_image(image, pipeline.max_megapixels).original
    size = (original.shape[0], original.shape[1])
    sample = letterbox([0], [size], pipeline.image_size)[0]
    takes_levels = metadata["input"].startswith("uint8")
    dtype = torch.uint8 if takes_levels else torch.float32
    finisher = ImageFinisher(
        pipeline.image_size, pipeline.mean, pipeline.std, dtype, layout="HWC" if takes_levels else "CHW"
    )

    def forward(images: torch.Tensor) -> ProbMap:
        prob_map = infer((images.permute(0, 2, 3, 1) if takes_levels else images).numpy())
        return ProbMap(torch.from_numpy(np.array(prob_map)))

    batch = finisher.finish([render(original, sample, pipeline, training=False)])
    (prob_map,) = forward_content(forward, batch, [sample.resized_size]).prob_map
    levels = to_levels(prob_map, config.postprocess.bin_thresh).numpy()
    return detect_letterboxed(levels, sample, size, config.postprocess, config.targets)


def infer_with(url: str) -> Infer:
    """Returns the function that asks the model `dbnet` of a server."""
    from tritonclient import http  # type: ignore[import-not-found]  # a package of the client's machine only

    client = http.InferenceServerClient(url)

    def infer(images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        data_type = "UINT8" if images.dtype == np.uint8 else "FP32"
        given = http.InferInput("images", list(images.shape), data_type)
        given.set_data_from_numpy(images)
        return client.infer("dbnet", [given]).as_numpy("prob_map")

    return infer


def main() -> None:
    """Prints the polygons and scores of the images on the command line."""
    metadata = json.loads(Path(__file__).with_name("metadata.json").read_text())
    infer = infer_with(sys.argv[1])
    for path in sys.argv[2:]:
        found = find_text(path, metadata, infer)
        for polygon, score in zip(found.polygons, found.scores, strict=True):
            print(path, polygon.round(1).tolist(), round(float(score), 3))


if __name__ == "__main__":
    main()
