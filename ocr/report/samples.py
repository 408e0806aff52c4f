"""Pictures of a data set, drawn with Pillow: images with their polygons, samples with their target maps, and sheets."""

import io
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont

from dali_pipelines.config import PipelineConfig
from ocr.loaders.batch import Batch
from ocr.polygons import FloatArray
from ocr.report.histograms import Histogram
from ocr.targets.config import TargetConfig
from ocr.targets.target_maps import TargetMaps

TEXT_COLOUR, IGNORED_COLOUR, FIRST_EDGE_COLOUR = (0, 150, 70), (225, 110, 0), (30, 90, 255)
"""Words, don't-care regions, and the first edge of each polygon, which tells the reading direction."""
TILE_SIDE = 560
"""Longest side of an image on a page, in pixels."""
PANEL_SIDE = 360
"""Side of one of the five pictures of a sample, in pixels."""
PANELS = (
    "input with polygons",
    "shrink map",
    "shrink mask: 0 in red, weights above 1 in violet",
    "threshold map",
    "threshold mask: 1 in blue",
)
"""Headings of the five pictures of a sample."""
_GAP = 8
_PAPER, _INK = (226, 230, 235), (40, 40, 40)


def tile(pixels: npt.NDArray[np.uint8], polygons: Sequence[FloatArray], ignore: npt.NDArray[np.bool_]) -> Image.Image:
    """Returns an upright image, at most `TILE_SIDE` long, with its polygons."""
    picture = Image.fromarray(pixels).convert("RGB")
    original_size = picture.size
    # Small images are enlarged, so that their outlines do not hide them; very long ones keep a height that can be seen.
    factor = min(TILE_SIDE / max(original_size), 4.0)
    size = tuple(max(1, round(side * factor)) for side in original_size)
    picture = picture.resize((size[0], size[1]), Image.Resampling.LANCZOS)
    draw_polygons(picture, polygons, ignore, np.divide(picture.size, original_size))
    return picture


def draw_polygons(
    picture: Image.Image,
    polygons: Sequence[FloatArray],
    ignore: npt.NDArray[np.bool_],
    scale: float | npt.NDArray[np.float64],
) -> None:
    """Draws outlines into the picture; their points are multiplied by `scale`."""
    canvas = ImageDraw.Draw(picture)
    for polygon, is_ignored in zip(polygons, ignore, strict=True):
        points = [(float(x), float(y)) for x, y in polygon * scale]
        canvas.line([*points, points[0]], fill=IGNORED_COLOUR if is_ignored else TEXT_COLOUR, width=1)
        if not is_ignored:
            canvas.line(points[:2], fill=FIRST_EDGE_COLOUR, width=1)


def sample_strips(
    batch: Batch, pipeline: PipelineConfig, targets: TargetConfig, number: int | None = None
) -> list[Image.Image]:
    """Returns a picture for each sample of a batch: the input with its polygons, and the four target maps over it.

    Args:
        number: of samples, at most; None: all.
    """
    polygons = batch.polygons_input
    maps = None if batch.targets is None else batch.targets.as_float32()
    strips = []
    for row in range(len(batch.samples) if number is None else min(number, len(batch.samples))):
        pixels = _levels(batch.images[row], pipeline)
        panels = [_panel(pixels)]
        draw_polygons(panels[0], polygons.polygons_of(row), polygons.ignore_of(row), PANEL_SIDE / pixels.shape[0])
        if maps is not None:
            panels += [_panel(overlay) for overlay in _overlays(pixels, maps, row, targets)]
        strips.append(_side_by_side(panels))
    return strips


def _levels(image_CHW: torch.Tensor, pipeline: PipelineConfig) -> npt.NDArray[np.uint8]:
    """Returns a normalised image as (H, W, 3) levels."""
    image = image_CHW.float().cpu().permute(1, 2, 0).numpy()
    levels = image * np.array(pipeline.std, np.float32) + np.array(pipeline.mean, np.float32)
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def _overlays(
    pixels: npt.NDArray[np.uint8], maps: TargetMaps, row: int, targets: TargetConfig
) -> list[npt.NDArray[np.uint8]]:
    stride = targets.map_stride

    def whole(values: torch.Tensor) -> npt.NDArray[np.float32]:
        return np.kron(values[row].cpu().numpy(), np.ones((stride, stride), np.float32))

    span = targets.thresh_max - targets.thresh_min
    bands = np.clip((whole(maps.thresh_map) - targets.thresh_min) / span, 0, 1)
    mask = whole(maps.shrink_mask)
    more_than_one = (np.maximum(mask - 1, 0) / max(targets.max_text_weight - 1, 1)).astype(np.float32)
    ignored = (mask == 0).astype(np.float32)
    return [
        _mixed(pixels, whole(maps.shrink_map), (0, 200, 80)),
        np.where(
            ignored[..., None] > 0,
            _mixed(pixels, ignored, (230, 30, 30)),
            _mixed(pixels, more_than_one, (130, 60, 220)),
        ),
        _mixed(pixels, bands, (255, 140, 0)),
        _mixed(pixels, whole(maps.thresh_mask), (40, 100, 255)),
    ]


def _mixed(
    pixels: npt.NDArray[np.uint8], weight: npt.NDArray[np.float32], colour: tuple[int, int, int]
) -> npt.NDArray[np.uint8]:
    """Returns the image in faint gray with a colour over it, as strong as the weight (H, W) from 0 to 1."""
    gray = pixels.astype(np.float32).mean(axis=2, keepdims=True) * 0.5 + 110
    opacity = 0.75 * weight[..., None]
    return (gray * (1 - opacity) + np.array(colour, np.float32) * opacity).astype(np.uint8)


def _panel(pixels: npt.NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(pixels).resize((PANEL_SIDE, PANEL_SIDE), Image.Resampling.LANCZOS)


def _side_by_side(panels: Sequence[Image.Image]) -> Image.Image:
    strip = Image.new("RGB", (len(panels) * (PANEL_SIDE + _GAP) - _GAP, PANEL_SIDE), _PAPER)
    for place, panel in enumerate(panels):
        strip.paste(panel, (place * (PANEL_SIDE + _GAP), 0))
    return strip


def as_jpeg(picture: Image.Image) -> bytes:
    """Returns the picture as a JPEG file."""
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=82)
    return stream.getvalue()


def sheet(title: str, pictures: Sequence[Image.Image], captions: Sequence[str], num_columns: int) -> Image.Image:
    """Returns pictures in columns under a title, each with its caption below."""
    widths, heights = [picture.width for picture in pictures], [picture.height for picture in pictures]
    font, line = ImageFont.load_default(15), 22
    column = max(widths, default=0) + _GAP
    num_rows = math.ceil(len(pictures) / num_columns)
    row_heights = [
        max(heights[row * num_columns : (row + 1) * num_columns]) + 2 * line + _GAP for row in range(num_rows)
    ]
    page = Image.new("RGB", (num_columns * column + _GAP, sum(row_heights) + 3 * line), _PAPER)
    canvas = ImageDraw.Draw(page)
    canvas.text((_GAP, _GAP), title, _INK, ImageFont.load_default(20))
    for place, picture in enumerate(pictures):
        row, x = place // num_columns, _GAP + place % num_columns * column
        y = 2 * line + sum(row_heights[:row])
        page.paste(picture, (x, y))
        for number, text in enumerate(captions[place].split("\n")[:2]):
            canvas.text((x, y + picture.height + 2 + number * line), _fitting(text, font, column - _GAP), _INK, font)
    return page


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Returns the beginning of the text that is at most `width` pixels wide."""
    while text and font.getlength(text) > width:
        text = text[: -max(2, len(text) // 20)] + "…"
    return text


def histogram_sheet(title: str, histograms: Sequence[Histogram]) -> Image.Image:
    """Returns the histograms on one page."""
    pictures = [_bars(histogram) for histogram in histograms]
    captions = [f"{histogram.title}\n{histogram.note}" for histogram in histograms]
    return sheet(title, pictures, captions, num_columns=2)


def _bars(histogram: Histogram) -> Image.Image:
    size = (560, 200)
    picture = Image.new("RGB", size, (244, 246, 248))
    canvas = ImageDraw.Draw(picture)
    width, most = size[0] / len(histogram.counts), max(histogram.counts)
    font = ImageFont.load_default(13)
    for place, count in enumerate(histogram.counts):
        top = size[1] - 18 - (size[1] - 30) * count / most
        canvas.rectangle([place * width + 1, top, (place + 1) * width - 1, size[1] - 18], (54, 116, 181))
    canvas.text((4, size[1] - 17), histogram.labels[0], _INK, font)
    canvas.text((size[0] - 4, size[1] - 17), histogram.labels[-1], _INK, font, anchor="ra")
    return picture
