"""What a data set is made of, as configured and as loaded."""

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ByteSize, ConfigDict, Field, field_validator, model_validator

from dali_pipelines.config import Section


class CacheConfig(Section):
    """Which results are kept after they were first made, and where. Budgets are of one rank."""

    cache_images: bool = True
    """Keep in RAM what preload_images reads; false: files are read anew in each epoch."""
    cache_maps: bool = True
    """Keep offline target maps in RAM once they were read (load_maps)."""
    cache_transformed_tensors: bool = False
    """Keep finished inputs and targets after epoch 0. Only for a split without randomness."""
    log_statistics_every_n: int | None = Field(default=None, ge=1)
    """Log hits and misses every n accesses; null: once an epoch."""
    image_format: Literal["encoded", "decoded"] = "encoded"
    """What preload_images keeps: the bytes of the files, or pixels, about ten times as many bytes that need no decoding."""
    cache_decoded_images: bool = False
    """Keep the decoded images of epoch 0 on the device (in RAM without a GPU); all random steps start from them."""
    dtype: Literal["float16", "uint8"] = "float16"
    """Of finished inputs: normalised float16, or exact levels at half the memory, normalised on the way to the network."""
    device_budget: ByteSize | None = None
    """Bytes on the GPU, as 4GB; null: nine tenths of what the plan of a training run leaves, half of what is free where there is no
    plan. Without a GPU RAM is the first tier."""
    ram_budget: ByteSize | None = None
    """Bytes in RAM; null: half of what is free when the run starts."""
    directory: str | None = None
    """Folder that keeps finished tensors beyond the run; null: no disk tier."""
    disk_budget: ByteSize | None = None
    """Bytes in `directory`, entries of earlier runs included; null: half of what is free on its disk."""
    verify: int = Field(default=0, ge=0)
    """Make this many random entries of the tensor cache again in each epoch and stop on a difference."""


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
    shards: str | None = None
    """Folder of the split's tar shards from scripts/prepare_data.py, or s3://BUCKET/PREFIX; read with loader=webdataset, in place
    of images and annotations."""
    image_extensions: tuple[str, ...] = (".jpg", ".jpeg", ".png")
    """Files of the folder that count as images, in any case."""
    preload_maps: bool = False
    """Read all offline target maps into RAM before the run (with load_maps)."""
    load_maps: bool = False
    """Read target maps from the .npz files of scripts/prepare_data.py; maps that are not there, or no longer fit, are made."""
    maps_path: str | None = None
    """Folder of the .npz files; null: image_path with _maps added."""
    preload_images: bool = False
    """Read all images into RAM before the run."""
    prenormalize_images: bool = False
    """Fill the cache of finished, normalised inputs before the run instead of in epoch 0 (cache_transformed_tensors)."""
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

    @model_validator(mode="after")
    def _normalised_inputs_have_a_place(self) -> "DatasetConfig":
        if self.prenormalize_images and not self.cache_config.cache_transformed_tensors:
            raise ValueError(
                "prenormalize_images=true fills the cache of finished inputs, which is off: set "
                "cache_config.cache_transformed_tensors=true too"
            )
        return self

    def settings_without_effect(self) -> list[str]:
        """Keys that are set, and which others keep from having an effect."""
        cache = self.cache_config
        needs_tensors = {
            "cache_config.dtype": cache.dtype != "float16",
            "cache_config.directory": cache.directory is not None,
            "cache_config.disk_budget": cache.disk_budget is not None,
            "cache_config.verify": cache.verify > 0,
        }
        idle = []
        if not cache.cache_transformed_tensors:
            idle += [
                f"{key} (cache_config.cache_transformed_tensors=false)"
                for key, is_set in needs_tensors.items()
                if is_set
            ]
        elif cache.disk_budget is not None and cache.directory is None:
            idle.append("cache_config.disk_budget (cache_config.directory=null)")
        if self.preload_maps and not self.load_maps:
            idle.append("preload_maps (load_maps=false)")
        if cache.image_format == "decoded" and not (self.preload_images and cache.cache_images):
            idle.append("cache_config.image_format (nothing is preloaded)")
        return idle

    def settings_without_effect_on_shards(self) -> list[str]:
        """Keys of images and annotations that are set, or do not belong to `shards`, and that shards leave without effect.

        A path belongs to shards in ROOT/shards/NAME, where scripts/prepare_data.py puts them, if it is below ROOT.
        """
        defaults = type(self).model_fields
        keys = ("image_extensions", "annotation_frame", "check_pixels")
        idle = [key for key in keys if getattr(self, key) != defaults[key].default]
        if self.on_bad_sample == "skip":  # error ends the run at an image that cannot be decoded
            idle.append("on_bad_sample")
        folder = Path(os.path.abspath(self.shards)).parent if self.shards is not None else None
        if folder is not None and folder.name == "shards":
            paths = {"image_path": self.image_path, "annotation_path": self.annotation_path}
            idle += [
                f"{key}={path}"
                for key, path in paths.items()
                if path is not None and not Path(os.path.abspath(path)).is_relative_to(folder.parent)
            ]
        return idle

    @property
    def maps_dir(self) -> Path:
        """Folder of the offline target maps."""
        return Path(self.maps_path or f"{self.image_path.rstrip('/')}_maps")


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
