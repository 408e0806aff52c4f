"""Configuration of the input pipeline: sizes, resampling, augmentation, threads."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    """One section of the configuration: unknown keys are errors, values are frozen, docstrings describe the fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class AugmentationConfig(Section):
    """What changes a training image. Each number is drawn by the plan, from Philox keyed by (seed, epoch, sample)."""

    rotation_degrees: float = Field(default=10.0, ge=0, le=180)
    """The angle is uniform in +- this."""
    scale_min: float = Field(default=0.5, gt=0)
    """Smallest scale, relative to validation (1.0: longest side = image_size). Log-uniform between the two."""
    scale_max: float = Field(default=3.0, gt=0)
    """Largest scale, relative to validation."""
    flip_probability: float = Field(default=0.5, ge=0, le=1)
    """Probability of a horizontal mirror image."""
    crop_size: int | None = Field(default=None, ge=32, multiple_of=32)
    """Side of the square training crop in pixels; null: image_size."""
    crop_candidates: int = Field(default=16, ge=1)
    """Crop positions tried; the one that cuts the smallest share of its polygons wins. Half of them lie around a polygon."""
    min_visible: float = Field(default=0.25, ge=0, le=1)
    """A polygon of whose bounding box less than this lies in the crop becomes a don't-care region."""
    brightness: float = Field(default=0.2, ge=0, lt=1)
    """Levels are multiplied by 1 +- this (uniform)."""
    contrast: float = Field(default=0.2, ge=0, lt=1)
    """Distances from mid-grey are multiplied by 1 +- this."""
    saturation: float = Field(default=0.2, ge=0, le=1)
    """Distances from the pixel's luma are multiplied by 1 +- this."""
    hue_degrees: float = Field(default=10.0, ge=0, le=180)
    """Colours are turned about the grey axis by +- this."""

    @model_validator(mode="after")
    def _scales_are_ordered(self) -> "AugmentationConfig":
        if self.scale_min > self.scale_max:
            raise ValueError(f"scale_min {self.scale_min} is above scale_max {self.scale_max}")
        return self


class PipelineConfig(Section):
    """From the JPEG file to the network's input. A checkpoint carries this section."""

    image_size: int = Field(default=640, ge=32, multiple_of=32)
    """Validation: the longest side becomes this and the image is padded, right and below, to a square."""
    augmentation: AugmentationConfig = AugmentationConfig()
    """Training only."""
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    """RGB levels (0 to 255) subtracted from the input: ImageNet's, as the timm backbones were trained."""
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    """RGB levels by which the input is divided after that."""
    jpeg_fancy_upsampling: bool = True
    """Interpolate chroma as libjpeg does. False is DALI's faster GPU default, whose pixels differ from the CPU's."""
    output_dtype: Literal["auto", "float16", "float32"] = "auto"
    """Of the network's input; auto: float16 on a GPU, float32 on a CPU."""
    output_layout: Literal["CHW", "HWC"] = "CHW"
    """How an image's numbers lie in memory; its shape is (3, H, W) in both. HWC is how DALI and the CPU make it, and what a network
    with trainer.channels_last takes without a copy. Entries of the tensor cache are kept in CHW. loader=torch on a GPU gives
    HWC whatever this says: its workers send the images so."""
    num_threads: int = Field(default=0, ge=0)
    """CPU threads of DALI; 0: one less than the cores of this process, four at most. Without a GPU they read and decode; one
    thread more, whatever this says, resizes, warps and colours."""
    prefetch_queue_depth: int = Field(default=2, ge=1)
    """Batches DALI prepares ahead."""
    hw_decoder_load: float = Field(default=0.65, ge=0, le=1)
    """Share of a batch that the GPU's JPEG engines decode (DALI's default). More leaves less to the processor, and batches may
    wait longer for the engines: look at the 99th percentile too."""
    preallocate_decoder: bool = False
    """The GPU's JPEG engines get buffers for the data set's largest image before the first batch, so that meeting it later moves
    none. They take 3 bytes a pixel of that size for each image of the engines' share of a batch. Without a GPU: no effect."""
    max_megapixels: float = Field(default=100.0, gt=0)
    """Images with more pixels are refused before they are decoded."""

    @property
    def crop_size(self) -> int:
        """Side of the training input."""
        return self.augmentation.crop_size or self.image_size

    @property
    def black(self) -> tuple[float, float, float]:
        """What black pixels are once they are normalised."""
        red, green, blue = (-mean / std for mean, std in zip(self.mean, self.std, strict=True))
        return red, green, blue

    def input_size(self, training: bool) -> int:
        """Side of the square input in pixels."""
        return self.crop_size if training else self.image_size

    def wants_float16(self, device_type: str) -> bool:
        """Whether inputs on this type of device (cuda, cpu) are float16."""
        return device_type == "cuda" if self.output_dtype == "auto" else self.output_dtype == "float16"
