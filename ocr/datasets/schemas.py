"""Configuration of a data set and its caches, and the type of a decoded image."""

import os
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ByteSize, ConfigDict, Field, field_validator, model_validator

from dali_pipelines.config import Section

ShardReader = Literal["dali", "webdataset"]
"""Reader of tar shards: DALI, or the package webdataset."""

DEFAULT_SHARD_CONNECTIONS = 32
"""Concurrent requests to s3:// of a process, unless the configuration says otherwise."""


class CacheConfig(Section):
    """Which results are kept after their first computation, and where. Budgets are per rank."""

    cache_images: bool = True
    """Keep the images read by preload_images in RAM; false: files are read again in each epoch."""
    cache_maps: bool = True
    """Keep offline target maps (load_maps) in RAM after their first read, as far as ram_budget goes. Those of finished samples that
    are kept are freed."""
    cache_transformed_tensors: bool = False
    """Keep finished inputs and targets after epoch 0. Only for a split without randomness."""
    log_statistics_every_n: int | None = Field(default=None, ge=1)
    """Log hits and misses every n accesses; null: once per epoch."""
    image_format: Literal["encoded", "decoded"] = "encoded"
    """Form in which preload_images keeps images: encoded files, or decoded pixels, which take about ten times as much memory."""
    cache_decoded_images: bool = False
    """Keep the decoded images of epoch 0 on the device (in RAM without a GPU); all random steps start from them."""
    dtype: Literal["float16", "uint8"] = "float16"
    """Data type of finished inputs: normalised float16, or exact uint8 levels at half the memory, normalised when read."""
    device_budget: ByteSize | None = None
    """Bytes on the GPU, such as 4GB; null: nine tenths of what the memory plan of a training run leaves, or half of the free memory
    without a plan. Without a GPU, RAM is the first tier."""
    ram_budget: ByteSize | None = None
    """Bytes in RAM; null: half of the free memory at the start of the run."""
    directory: str | None = None
    """Folder that keeps finished tensors after the run; null: no disk tier."""
    disk_budget: ByteSize | None = None
    """Bytes in `directory`, entries of earlier runs included; null: half of the free space on its disk."""
    verify: int = Field(default=0, ge=0)
    """Number of random cache entries to recompute per epoch; the run stops on a mismatch."""


class ImageLoadingConfig(Section):
    """Decoding with loader=torch."""

    use_turbojpeg: bool = True
    """Call libjpeg-turbo directly for grey and colour JPEGs; other files, or all with false, go through Pillow. Same pixels."""


class SetConfig(Section):
    """One of several data sets that make up a split. All other settings are those of the split."""

    name: str | None = Field(default=None, pattern=r"^[\w.-]+$")
    """Name in scores, reports and messages; null: the first folder in which the image paths of the sets differ."""
    weight: float | None = Field(default=None, gt=0)
    """Share of an epoch's training samples, relative to the weights of the other sets; null in all sets: every image once an epoch.
    Evaluation uses every image once in any case."""
    image_path: str
    """Folder of images."""
    annotation_path: str | None = None
    """File or folder of annotations."""
    annotation_format: str = "auto"
    """Format of the annotations: upstage, icdar, ..., as in data=NAME; auto: look at them."""
    annotation_set: str | None = None
    """Set to read where one file lists several: train, val or test; null: the file holds one."""
    annotation_frame: Literal["stored", "upright"] | None = None
    """Frame of the coordinates; null: that of the split."""
    maps_path: str | None = None
    """Folder of the .npz files; null: image_path with _maps appended."""


class DatasetConfig(Section):
    """One split: a folder of images and their annotations, or several data sets together."""

    image_path: str
    """Folder of images."""
    sets: tuple[SetConfig, ...] = ()
    """Several data sets, which replace image_path and the keys of the annotations. `config` given as a list means this key. Each
    has the keys name, weight, image_path, annotation_path, annotation_format, annotation_set, annotation_frame and maps_path."""
    annotation_path: str | None = None
    """File or folder of annotations; null: images without annotations."""
    annotation_format: str = "auto"
    """Format of the annotations: upstage, icdar, ..., as in data=NAME; auto: look at them."""
    annotation_set: str | None = None
    """Set to read where one file lists several, as COCO-Text does: train, val or test; null: the file holds one."""
    shards: str | None = None
    """Folder of the split's tar shards from scripts/prepare_data.py, or s3://BUCKET/PREFIX. loader=webdataset reads them instead of
    images and annotations."""
    image_extensions: tuple[str, ...] = (".jpg", ".jpeg", ".png")
    """Extensions of the files that are images, in upper or lower case. Files that annotations name may also end in .tif, .tiff,
    .bmp, .webp or .gif, and a folder that holds only such files is read too. The content of a file decides how it is read."""
    converted_path: str | None = None
    """Folder of the 8-bit PNGs that TIFF, BMP, WebP, GIF, CMYK, 16-bit and transparent images are read through; each is written
    once. null: dali-dbnet/converted in $XDG_CACHE_HOME or ~/.cache."""
    preload_maps: bool = False
    """Read the offline target maps (with load_maps) into RAM before the run, as far as ram_budget goes."""
    load_maps: bool = False
    """Read target maps from the .npz files of scripts/prepare_data.py; missing and outdated maps are computed."""
    maps_path: str | None = None
    """Folder of the .npz files; null: image_path with _maps appended."""
    preload_images: bool = False
    """Read all images into RAM before the run."""
    prenormalize_images: bool = False
    """Fill the cache of finished, normalised inputs before the run instead of in epoch 0 (cache_transformed_tensors)."""
    cache_config: CacheConfig = CacheConfig()
    image_loading_config: ImageLoadingConfig = ImageLoadingConfig()
    annotation_frame: Literal["stored", "upright"] = "stored"
    """Frame of the coordinates: the file as stored, or the image after its EXIF rotation (a canonical set)."""
    on_bad_sample: Literal["error", "skip"] | None = None
    """error: bad input stops the run. skip: it is left out and reported. null: error for annotations, skip for image files."""
    audit_memo: str = "auto"
    """Where the result of the audit is kept, so that the next start only looks whether something has changed: a folder; off; cache:
    ~/.cache/dali-dbnet; auto: .dbnet_audit beside the image folder, or the cache without annotations or where that folder cannot
    be written. Evaluation of a checkpoint's data set always takes the cache."""
    check_pixels: bool = True
    """Decode every image once before the run, to find damage that headers do not show."""
    max_unreadable_batch: float = Field(default=1.0, gt=0, le=1)
    """The run ends if this share of a batch cannot be read any more, and at least two images: a folder that has vanished must not
    be trained on or scored as black images."""
    max_unreadable_epoch: float = Field(default=0.01, ge=0, le=1)
    """The run ends if more than this share of an epoch's images cannot be read any more, and at least two images."""
    unreadable_wait_seconds: float = Field(default=60.0, ge=0)
    """Time for which a run waits for missing files to come back before it ends."""

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

    @model_validator(mode="after")
    def _sets_have_names_and_weights(self) -> "DatasetConfig":
        names = self.set_names
        repeated = [name for name in dict.fromkeys(names) if names.count(name) > 1]
        if repeated:
            raise ValueError(
                f"sets: the name {repeated[0]} comes {names.count(repeated[0])} times; give each set its own name"
            )
        unweighted = [name for name, one in zip(names, self.sets, strict=True) if one.weight is None]
        if unweighted and len(unweighted) < len(names):
            raise ValueError(f"sets: {', '.join(unweighted)} without weight; give a weight to each set, or to none")
        return self

    @property
    def set_names(self) -> list[str]:
        """Names of `sets`."""
        paths = [Path(os.path.abspath(one.image_path)).parts for one in self.sets]
        differing = next((parts for parts in zip(*paths, strict=False) if len(set(parts)) > 1), ())
        folders = [re.sub(r"[^\w.-]", "_", part) for part in differing]
        if len(set(folders)) < len(self.sets):
            folders = [f"set{number}" for number in range(1, len(self.sets) + 1)]
        return [one.name or folder for one, folder in zip(self.sets, folders, strict=True)]

    def each_set(self) -> dict[str, "DatasetConfig"]:
        """Returns the configuration of each data set by its name. Without `sets` it is the split's own, under an empty name."""
        if not self.sets:
            return {"": self}
        return {name: self._of_set(one) for name, one in zip(self.set_names, self.sets, strict=True)}

    def without_list_of_one(self) -> "DatasetConfig":
        """Returns the same configuration, with the keys of a single set in their usual places."""
        return self._of_set(self.sets[0]) if len(self.sets) == 1 else self

    def _of_set(self, one: SetConfig) -> "DatasetConfig":
        values = {key: value for key, value in one if key not in ("name", "weight")}
        if one.annotation_frame is None:
            del values["annotation_frame"]
        return self.model_copy(update=values | {"sets": ()})

    @property
    def places(self) -> str:
        """The folder or folders of images, for messages."""
        return ", ".join(one.image_path for one in self.sets) or self.image_path

    @property
    def keeps_pixels(self) -> bool:
        """Whether decoded images stay in memory, preloaded or from epoch 0."""
        cache = self.cache_config
        is_preloaded = self.preload_images and cache.cache_images and cache.image_format == "decoded"
        return is_preloaded or cache.cache_decoded_images

    def settings_without_effect(self) -> list[str]:
        """Returns the keys whose values have no effect because of other keys."""
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
        """Returns the keys of images and annotations that have no effect when shards are read.

        A path is among them only if the shards were certainly not made from it: they are in ROOT/shards/NAME, where
        scripts/prepare_data.py writes them, and the path is outside ROOT.
        """
        defaults = type(self).model_fields
        keys = ("image_extensions", "converted_path", "annotation_frame", "check_pixels")
        idle = [key for key in keys if getattr(self, key) != defaults[key].default]
        if self.on_bad_sample == "skip":  # with error, an image that cannot be decoded ends the run
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
    """(H, W, 3) RGB, upright: uint8 levels, or float32 if normalised."""
    raw_width: int = Field(gt=0)
    """Width of the file as stored, in pixels."""
    raw_height: int = Field(gt=0)
    """Height of the file as stored, in pixels."""
    orientation: int = Field(default=1, ge=0, le=8)
    """EXIF orientation of the file; 0 and 1 mean that the image was not turned."""
    is_normalized: bool = False
    """Whether mean and standard deviation have been applied to the levels."""
