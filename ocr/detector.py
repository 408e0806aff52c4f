"""Text detection from Python, without Lightning, DALI or Hydra: images in, polygons out.

    detector = TextDetector()  # or TextDetector("best.ckpt")
    found = detector("receipt.jpg")
    found.polygons, found.scores

The numbers equal those of predict.py with loader=torch, for the same batches of files.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, cast, overload

import numpy as np
from PIL import Image
from pydantic import ValidationError

from dali_pipelines.rendering import ImageArray, render
from dali_pipelines.source import PlannedSample
from ocr.config import SHIPPED_WEIGHTS, Device, InferenceConfig, Precision, described_problems
from ocr.datasets.given_image import GivenImage, read_image
from ocr.datasets.plan import letterbox
from ocr.device import resolve_device
from ocr.errors import InputError
from ocr.pages.config import Rotations, Tile
from ocr.pages.detector import PageText
from ocr.polygons import FloatArray
from ocr.postprocess.boxes import Detections, detect_letterboxed, warn_of_cut_regions
from ocr.postprocess.levels import Levels
from ocr.postprocess.unclip import UnclipRatio
from ocr.predictions import draw_picture, image_entry, stored_detections
from ocr.restore import restore_for_inference
from ocr.training.network import prepare_network
from ocr.training.rendered_forward import RenderedForward, build_page_detector


@dataclass(frozen=True, eq=False)
class DetectedText:
    """The text found in one image, best first, in pixels of the image as it was handed over."""

    polygons: list[FloatArray]
    """(n, 2) float32 each, (x, y), clockwise. For a file or Pillow image with an EXIF orientation: pixels as they are stored."""
    scores: FloatArray
    """(N,) float32, mean probability of each polygon's region."""
    size: tuple[int, int]
    """(H, W) of the image, in the same pixels as the polygons."""
    rotation: int
    """Clockwise turn of the upright image, in degrees, at which the text was found; 0 unless `rotations` is set."""
    _image: GivenImage = field(repr=False)
    _original: Detections = field(repr=False)
    """The same text in pixels of the upright image."""

    @property
    def num_cut(self) -> int:
        """Regions that were left out only because there are more than `max_candidates`."""
        return self._original.num_cut

    def draw(self, image: GivenImage | None = None) -> Image.Image:
        """Returns the upright image with its polygons in green.

        Args:
            image: the image to draw on; None reads the image that was handed over again.

        Raises:
            InputError: the image has another size than the one that was handed over, or cannot be read.
        """
        read = read_image(self._image if image is None else image, max_megapixels=np.inf)
        if read.stored_size != self.size:
            raise InputError(
                f"draw: the image is {read.stored_size[1]} x {read.stored_size[0]} pixels, but the text was found in one of "
                f"{self.size[1]} x {self.size[0]}; hand over that image"
            )
        return draw_picture(read.original, self._original)

    def to_dict(self) -> dict[str, Any]:
        """Returns the image's entry in predictions.json: {"words": {"0001": {"points", "confidence"}}}, rounded as there."""
        return image_entry(Detections.from_polygons(self.polygons, self.scores))


class _Rendered(NamedTuple):
    """One image on its way to the network."""

    levels: ImageArray
    """(H, W, 3) RGB uint8, resized, not yet padded."""
    sample: PlannedSample
    original_size: tuple[int, int]
    orientation: int
    stored_size: tuple[int, int]
    original: ImageArray | None
    """(H, W, 3) RGB uint8, upright, of a page that is looked at more closely; None: any other."""


class TextDetector:
    """Finds text in images with the network of a checkpoint. Threads may share a detector.

    Each argument that is None has the value that the checkpoint was trained with. A checkpoint trained with torch.compile or CUDA
    graphs runs without them.

    Args:
        checkpoint: a .ckpt file of a run, or a .safetensors or .onnx file of scripts/export.py; by default the weights that come
            with this package.
        device: auto (a GPU if there is one), cpu or gpu.
        precision: auto, 32-true, 16-mixed or bf16-mixed, as in trainer.precision.
        image_size: longest side of the network's input in pixels, a multiple of 32.
        batch_size: images per forward pass, where a list is handed over.
        bin_thresh, box_thresh, unclip_ratio, unclip_offset, output: as in the section postprocess.
        tile: "none", "auto" (pages whose text would be less than 8 pixels high are seen in tiles), or the side of a tile in pixels
            of the image.
        rotations: "none", "auto" (as they are or turned by 90 degrees, whichever gives longer lines), or the clockwise turns in
            degrees to choose from, such as (0, 90, 180, 270). A detector cannot tell upside-down text from upright text.

    Raises:
        FileNotFoundError: no such checkpoint.
        InputError: not a checkpoint of this trainer, or an argument is wrong.
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike[str] = SHIPPED_WEIGHTS,
        *,
        device: Device = "auto",
        precision: Precision | None = None,
        image_size: int | None = None,
        batch_size: int | None = None,
        bin_thresh: float | None = None,
        box_thresh: float | None = None,
        unclip_ratio: UnclipRatio | None = None,
        unclip_offset: float | None = None,
        output: Literal["quad", "polygon"] | None = None,
        tile: Tile = "none",
        rotations: Rotations = "none",
    ) -> None:
        thresholds = {
            "bin_thresh": bin_thresh,
            "box_thresh": box_thresh,
            "unclip_ratio": unclip_ratio,
            "unclip_offset": unclip_offset,
            "output": output,
        }
        arguments: dict[str, Any] = {"checkpoint": os.fspath(checkpoint), "device": device, "precision": precision}
        arguments |= {"image_size": image_size, "batch_size": batch_size, "postprocess": thresholds}
        arguments |= {"tile": tile, "rotations": rotations}
        try:
            config = InferenceConfig.model_validate(arguments)
            settings, model = restore_for_inference(config)
        except ValidationError as error:
            raise InputError("TextDetector: " + "; ".join(described_problems(error))) from None
        self.device = resolve_device(settings.device)
        self.pipeline = settings.pipeline
        self.postprocess = settings.postprocess
        self.batch_size = settings.dataloader.eval_batch_size
        self._targets = settings.targets
        prepare_network(model, settings.trainer.model_copy(update={"compile": False}))
        self._levels = RenderedForward(model.to(self.device).requires_grad_(False), settings, self.device)
        self._pages = build_page_detector(config, settings, self._levels)

    @overload
    def __call__(self, image: GivenImage) -> DetectedText: ...  # type: ignore[overload-overlap]  # a str is a Sequence[str]

    @overload
    def __call__(self, image: Sequence[GivenImage]) -> list[DetectedText]: ...

    def __call__(self, image: GivenImage | Sequence[GivenImage]) -> DetectedText | list[DetectedText]:
        """Returns the text of an image, or of each image of a list.

        Args:
            image: path of a JPEG or PNG, bytes of one, Pillow image, (H, W, 3) RGB uint8 array, or a list or tuple of these.

        Raises:
            InputError: not an image, a damaged one, or an array of another shape or type; the message names it.
            FileNotFoundError: no such file.
        """
        if not isinstance(image, list | tuple):
            return self._detect([cast(GivenImage, image)], ["image"])[0]
        names = [f"images[{index}]" for index in range(len(image))]
        starts = range(0, len(image), self.batch_size)
        batches = (slice(start, start + self.batch_size) for start in starts)
        return [found for batch in batches for found in self._detect(image[batch], names[batch])]

    def _detect(self, images: Sequence[GivenImage], names: Sequence[str]) -> list[DetectedText]:
        rendered = [self._rendered(image, name) for image, name in zip(images, names, strict=True)]
        levels_BHW = self._levels([item.levels for item in rendered])
        found = [
            self._result(image, item, levels) for image, item, levels in zip(images, rendered, levels_BHW, strict=True)
        ]
        num_cut = {
            os.fspath(image) if isinstance(image, str | os.PathLike) else name: text.num_cut
            for image, name, text in zip(images, names, found, strict=True)
        }
        warn_of_cut_regions(num_cut, self.postprocess.max_candidates)
        return found

    def _rendered(self, image: GivenImage, name: str) -> _Rendered:
        read = read_image(image, self.pipeline.max_megapixels, name)
        height, width = read.original.shape[:2]
        sample = letterbox([0], [(height, width)], self.pipeline.image_size)[0]
        levels = render(read.original, sample, self.pipeline, training=False)
        original = read.original if self._pages is not None and self._pages.looks_closer((height, width)) else None
        return _Rendered(levels, sample, (height, width), read.orientation, read.stored_size, original)

    def _result(self, image: GivenImage, item: _Rendered, levels: Levels) -> DetectedText:
        whole = detect_letterboxed(levels, item.sample, item.original_size, self.postprocess, self._targets)
        text = PageText(whole, 0)
        if self._pages is not None and item.original is not None:
            text = self._pages.detect(item.original, whole)
        stored = stored_detections(text.detections_original, item.orientation, item.stored_size)
        return DetectedText(
            stored.polygons, stored.scores, item.stored_size, text.rotation, image, text.detections_original
        )
