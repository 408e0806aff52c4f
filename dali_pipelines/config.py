"""Configuration of the input pipeline: sizes, resampling, augmentation, threads."""

import os
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    model_validator,
)

LARGE_SHARE = 1 / 8
"""Share of `max_batch_megapixels` above which an image is decoded alone. DALI keeps the buffers of the largest batch for each batch
that it prepares, so four images of 100 megapixels, whose files may have 12 KB, would take 1.2 GB three times."""

BATCHES_RENDERED_AHEAD = 2
"""Batches in the rendering threads of a CPU at most, the one that the consumer waits for included. It bounds the memory of decoded
images: DALI holds `prefetch_queue_depth` batches besides these."""


AUTO = 0
"""`image_size` that is still to be chosen from the data; read and written as auto."""
_SIDE = {"minimum": 32, "multipleOf": 32}
"""Bounds of the side of an input, as JSON schema names them: what the deepest stage of the networks needs."""


def _checked_size(value: Any, as_side: ValidatorFunctionWrapHandler) -> Any:
    """Returns the number, that of auto too. Raises ValueError, with one message for all that is allowed."""
    if value == "auto":
        return AUTO
    try:
        return as_side(value)
    except ValidationError:
        raise ValueError("expected auto, or a multiple of 32 that is at least 32") from None


ImageSize = Annotated[
    int,
    Field(ge=_SIDE["minimum"], multiple_of=_SIDE["multipleOf"]),
    WrapValidator(_checked_size),
    PlainSerializer(lambda size: "auto" if size == AUTO else size, return_type=int | str),
    WithJsonSchema({"anyOf": [{"const": "auto"}, {"type": "integer", **_SIDE}]}),
]


class Section(BaseModel):
    """One section of the configuration: unknown keys are errors, values are frozen, numbers are finite, and docstrings describe the
    fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _paths_as_text(cls, values: Any) -> Any:
        """Lets Python code give a `pathlib.Path` wherever a path is expected."""
        if not isinstance(values, dict):
            return values
        return {key: os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in values.items()}


class AugmentationConfig(Section):
    """Random changes of a training image. The plan draws every number, from Philox keyed by (seed, epoch, sample)."""

    rotation_degrees: float = Field(default=10.0, ge=0, le=180)
    """Largest rotation in either direction; the angle is uniform."""
    scale_min: float = Field(default=0.5, gt=0)
    """Smallest scale; at 1.0 the longest side is image_size, as in validation. The scale is log-uniform."""
    scale_max: float = Field(default=3.0, gt=0)
    """Largest scale, where 1.0 is again the scale of validation."""
    perspective: float = Field(default=0.0, ge=0, le=0.4)
    """Strongest perspective, as in a photograph taken at an angle. It divides lengths by 1 - this at the near end of the image and
    by 1 + this at the far end; the image's centre keeps its scale. At 0.1, text at the near end is up to 1.22 times as tall as at
    the far end. Direction and strength are uniform. 0: none."""
    flip_probability: float = Field(default=0.5, ge=0, le=1)
    """Probability of a horizontal flip."""
    crop_size: int | None = Field(default=None, ge=32, multiple_of=32)
    """Side of the square training crop in pixels; null: image_size."""
    crop_candidates: int = Field(default=16, ge=1)
    """Number of crop positions tried; the one that cuts the smallest share of its polygons wins. Half of them are drawn around a
    polygon."""
    min_visible: float = Field(default=0.25, ge=0, le=1)
    """Polygons with a smaller visible fraction of their bounding box become don't-care regions."""
    brightness: float = Field(default=0.2, ge=0, lt=1)
    """RGB levels are multiplied by a factor drawn uniformly from 1 +- this."""
    contrast: float = Field(default=0.2, ge=0, lt=1)
    """Distances from mid-grey are multiplied by a factor from 1 +- this."""
    saturation: float = Field(default=0.2, ge=0, le=1)
    """Distances from the pixel's luma are multiplied by a factor from 1 +- this."""
    hue_degrees: float = Field(default=10.0, ge=0, le=180)
    """Largest rotation of colours about the grey axis, in either direction."""

    @model_validator(mode="after")
    def _scales_are_ordered(self) -> "AugmentationConfig":
        if self.scale_min > self.scale_max:
            raise ValueError(f"scale_min {self.scale_min} is above scale_max {self.scale_max}")
        return self


class PipelineConfig(Section):
    """Settings that turn a JPEG file into the network's input. Every checkpoint carries this section."""

    image_size: ImageSize = 640
    """Side of the square validation input: the longest side is scaled to it, then the image is padded right and below. auto: the
    smallest size at which 95 % of the training words are 8 pixels tall (or targets.min_side, if that is more), within a bound by
    memory that is never below 640: one image in evaluation takes at most an eighth of the RAM or a quarter of the GPU, at 1 kB a
    pixel, and a training batch without a crop_size of its own at most half, at 4 kB a pixel. The run and its checkpoints have the
    number."""
    augmentation: AugmentationConfig = AugmentationConfig()
    """Random changes of training images; validation has none."""
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    """RGB levels (0 to 255) subtracted from the input: the ImageNet means that timm's backbones were trained with."""
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    """RGB levels that the difference is then divided by."""
    jpeg_fancy_upsampling: bool = True
    """Interpolate chroma as libjpeg does. False is DALI's faster GPU default, whose pixels differ from the CPU's."""
    output_dtype: Literal["auto", "float16", "float32"] = "auto"
    """Data type of the network's input; auto: float16 on a GPU, float32 on a CPU."""
    output_layout: Literal["CHW", "HWC"] = "CHW"
    """Memory layout of an image; its shape is (3, H, W) in both. HWC is what DALI and the CPU produce, and what a network with
    trainer.channels_last takes without a copy. The tensor cache always stores CHW. loader=torch on a GPU always gives HWC, the
    layout in which its workers send images."""
    num_threads: int = Field(default=0, ge=0)
    """CPU threads of DALI; 0: one less than the cores of this process, four at most. Without a GPU they read and decode, and as
    many additional threads resize, warp, change colours and normalise."""
    scaled_decode: bool = False
    """Decode large JPEGs at a half, a quarter or an eighth of their size, but at least at twice the size that is needed, and
    resize from there with the same filter. It takes less processor time; docs/which_loader.md tells how far the pixels differ. No
    effect where a GPU decodes, on files other than grey and colour JPEGs, and in a split that keeps decoded images."""
    prefetch_queue_depth: int = Field(default=2, ge=1)
    """Number of batches that DALI prepares ahead."""
    hw_decoder_load: float = Field(default=0.65, ge=0, le=1)
    """Share of a batch that the GPU's JPEG engines decode (DALI's default). A larger share relieves the CPU, but batches may wait
    longer for the engines: check the 99th percentile of the batch times too."""
    preallocate_decoder: bool = False
    """Allocate the JPEG engines' buffers for the data set's largest image before the first batch, which avoids a reallocation in
    the middle of an epoch. They take 3 bytes per pixel of that image for each image of the engines' share of a batch. No effect
    without a GPU."""
    max_megapixels: float = Field(default=100.0, gt=0)
    """Larger images are refused before they are decoded."""
    max_batch_megapixels: float = Field(default=400.0, gt=0)
    """Megapixels of a batch that DALI decodes at once, at 3 bytes each and more while it decodes. The other images, and those above
    an eighth of this size, follow one by one, more slowly. So a batch of huge pictures, which may be small files, does not take all
    memory."""

    @property
    def crop_size(self) -> int:
        """Side of the square training input in pixels."""
        return self.augmentation.crop_size or self.image_size

    @property
    def in_perspective(self) -> bool:
        """Whether training images are warped in perspective; otherwise their warp is affine."""
        return self.augmentation.perspective > 0

    @property
    def black(self) -> tuple[float, float, float]:
        """The normalised value of a black pixel, per channel."""
        red, green, blue = (-mean / std for mean, std in zip(self.mean, self.std, strict=True))
        return red, green, blue

    def input_size(self, training: bool) -> int:
        """Returns the side of the square input in pixels."""
        return self.crop_size if training else self.image_size

    def wants_float16(self, device_type: str) -> bool:
        """Returns whether inputs on this type of device (cuda, cpu) are float16."""
        return device_type == "cuda" if self.output_dtype == "auto" else self.output_dtype == "float16"


def num_cores() -> int:
    """Returns the number of cores that this process may use; all of them where the system does not say, as on macOS."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_num_threads() -> int:
    """Returns one less than the cores this process may use, between 1 and 4: the training step needs the rest."""
    return max(1, min(4, num_cores() - 1))
