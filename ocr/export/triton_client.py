"""Finds text through a Triton inference server: python client.py localhost:8000 IMAGE ...

It needs this project and `pip install tritonclient[http]`. metadata.json lies beside it.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from dali_pipelines.normalize import ImageFinisher
from dali_pipelines.rendering import render
from ocr.command_line import plain_errors
from ocr.config import TrainConfig
from ocr.datasets.given_image import GivenImage, read_image
from ocr.datasets.plan import letterbox
from ocr.errors import InputError
from ocr.models.db_head import ProbMap
from ocr.onnx_network import INPUT_NAME, OUTPUT_NAME, config_of_metadata
from ocr.postprocess.boxes import Detections, detect_letterboxed
from ocr.postprocess.levels import to_levels
from ocr.training.content_forward import forward_content

Infer = Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]]
"""Returns the probability maps, (B, Hm, Wm), of a batch as the server takes it."""


class ServedNetwork(NamedTuple):
    """The facts about the server's network that preprocessing and post-processing need."""

    config: TrainConfig
    takes_levels: bool
    """Whether the input is (B, H, W, 3) uint8; otherwise (B, 3, H, W) normalised float32."""


def read_metadata(path: Path) -> ServedNetwork:
    """Returns what metadata.json says about the network.

    Raises:
        InputError: it is damaged, or of another version of this project; the message says what to do.
        OSError: it cannot be read.
    """
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}); export the checkpoint again") from error
    if not isinstance(metadata, dict):
        raise InputError(f"{path}: found a {type(metadata).__name__}, expected an object; export the checkpoint again")
    config = config_of_metadata(metadata, str(path))
    return ServedNetwork(config, str(metadata.get("input")).startswith("uint8"))


def find_text(image: GivenImage, network: ServedNetwork, infer: Infer) -> Detections:
    """Returns the text of one image, in pixels of the upright image.

    The server gets the part of the padded input that holds the image, with sides rounded up as `forward_content` does.
    """
    config, takes_levels = network
    pipeline = config.pipeline
    original = read_image(image, pipeline.max_megapixels).original
    size = (original.shape[0], original.shape[1])
    sample = letterbox([0], [size], pipeline.image_size)[0]
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
    """Returns the function that asks the model `dbnet` of a server, all images over one connection.

    Raises:
        InputError: the package tritonclient is not installed, or the address cannot be read. The function raises it where the
            server does not answer.
    """
    try:  # a package of the client's machine only
        from tritonclient import http  # type: ignore[import-not-found]
        from tritonclient.utils import InferenceServerException  # type: ignore[import-not-found]
    except ImportError as error:
        raise InputError("the client needs a package: pip install 'tritonclient[http]'") from error

    @contextmanager
    def explained() -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, InferenceServerException) as error:
            raise InputError(
                f"{url}: {error}; expected the HTTP address of a Triton server that has the model dbnet, such as localhost:8000"
            ) from error

    with explained():
        client = http.InferenceServerClient(url.removeprefix("http://"))

    def infer(images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        data_type = "UINT8" if images.dtype == np.uint8 else "FP32"
        given = http.InferInput(INPUT_NAME, list(images.shape), data_type)
        given.set_data_from_numpy(images)
        with explained():
            return client.infer("dbnet", [given]).as_numpy(OUTPUT_NAME)

    return infer


def main() -> None:
    """Prints the polygons and scores of the images on the command line; an error is one line."""
    if len(sys.argv) < 3 or sys.argv[1].startswith("-"):
        raise SystemExit(__doc__)
    with plain_errors():
        network = read_metadata(Path(__file__).with_name("metadata.json"))
        infer = infer_with(sys.argv[1])
        for path in sys.argv[2:]:
            found = find_text(path, network, infer)
            for polygon, score in zip(found.polygons, found.scores, strict=True):
                print(path, polygon.round(1).tolist(), round(float(score), 3))


if __name__ == "__main__":
    main()
