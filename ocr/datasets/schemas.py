"""What a data set is made of, as configured and as loaded."""

from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from dali_pipelines.config import Section


class CacheConfig(Section):
    """Which results of a deterministic split are kept after they were first made."""

    cache_images: bool = True
    """Keep decoded images."""
    cache_maps: bool = True
    """Keep target maps."""
    cache_transformed_tensors: bool = False
    """Keep finished inputs and targets. Never for a randomly augmented split."""
    log_statistics_every_n: int | None = Field(default=None, ge=1)
    """Log hits and misses every n accesses; null: never."""


class ImageLoadingConfig(Section):
    """How loader=torch decodes."""

    use_turbojpeg: bool = True
    """libjpeg-turbo called directly where the file is a grey or colour JPEG; otherwise Pillow. The pixels are the same."""


class DatasetConfig(Section):
    """One split: a folder of images and their annotations."""

    image_path: str
    """Folder of images."""
    annotation_path: str | None = None
    """A .json file (Upstage) or a folder of gt_<image>.txt files (ICDAR); null: images without annotations."""
    image_extensions: tuple[str, ...] = (".jpg", ".jpeg", ".png")
    """Files of the folder that count as images, in any case."""
    preload_maps: bool = False
    """Read all offline target maps into RAM first."""
    load_maps: bool = False
    """Read target maps from .npz files instead of making them on the device."""
    preload_images: bool = False
    """Read all images into RAM first."""
    prenormalize_images: bool = False
    """Normalise preloaded images once."""
    cache_config: CacheConfig = CacheConfig()
    image_loading_config: ImageLoadingConfig = ImageLoadingConfig()
    annotation_frame: Literal["stored", "upright"] = "stored"
    """Pixels the coordinates are in: of the file as it is stored, or after its EXIF rotation (a canonical set)."""
    on_bad_sample: Literal["error", "skip"] | None = None
    """What the audit does with bad input; null: bad annotations are an error, unreadable images are skipped and reported."""
    check_pixels: bool = True
    """Decode every image once before the run, to find damage that no header shows."""

    @field_validator("image_extensions")
    @classmethod
    def _extensions_start_with_a_dot(cls, extensions: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [extension for extension in extensions if not extension.startswith(".")]
        if wrong:
            raise ValueError(f"image_extensions: {wrong} must start with a dot, as .jpg does")
        return tuple(extension.lower() for extension in extensions)

    def unsupported_settings(self) -> list[str]:
        """Keys that are set but have no effect yet."""
        names = ("preload_maps", "load_maps", "preload_images", "prenormalize_images")
        unsupported = [name for name in names if getattr(self, name)]
        if self.cache_config.cache_transformed_tensors:
            unsupported.append("cache_config.cache_transformed_tensors")
        if self.cache_config.log_statistics_every_n is not None:
            unsupported.append("cache_config.log_statistics_every_n")
        return unsupported


class ImageData(BaseModel):
    """One decoded image."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True, use_attribute_docstrings=True)

    image_array: np.ndarray[Any, Any]
    """(H, W, 3) RGB, uint8 levels, or float32 if normalised; upright."""
    raw_width: int = Field(gt=0)
    """Pixels of the file as it is stored."""
    raw_height: int = Field(gt=0)
    orientation: int = Field(default=1, ge=0, le=8)
    """EXIF tag of the file; 0 and 1 mean that nothing was turned."""
    is_normalized: bool = False
