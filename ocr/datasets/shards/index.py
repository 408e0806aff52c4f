"""index.json: the position of each image in the shards of a split, and its checked annotations."""

from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, Field, ValidationError, model_validator

from dali_pipelines.config import Section
from ocr.errors import InputError
from ocr.file_names import name_problem, shown

INDEX_NAME = "index.json"
HEADER_SIZE = 512
"""Bytes of a tar header; file contents are padded to a multiple of it."""
_MAX_FLOAT32 = float(np.finfo(np.float32).max)
Coordinate = Annotated[float, Field(ge=-_MAX_FLOAT32, le=_MAX_FLOAT32, allow_inf_nan=False)]


Count = Annotated[int, Field(ge=0, le=2**63 - 1)]
Side = Annotated[int, Field(ge=1, le=2**31 - 1)]


def _sound_name(name: str) -> str:
    problem = name_problem(name)
    if problem is not None:
        raise ValueError(f"{name!r}: found {problem[0]}; expected {problem[1]}")
    return name


FileName = Annotated[str, AfterValidator(_sound_name)]
"""A name that follows the rule of `ocr.file_names`."""


class Shard(Section):
    """One tar file."""

    name: FileName
    """Name of the file beside the index."""
    num_bytes: Count


class IndexedImage(Section):
    """One image, its position and its annotations."""

    filename: FileName
    """Name in the annotations."""
    place: Count
    """Position among all listed images (`Manifest.sample_ids`); the key of the sample in its shard."""
    shard: Count
    """Position in `ShardIndex.shards`."""
    offset: int = Field(ge=HEADER_SIZE)
    """Position of the image's first byte in the shard, behind its tar header."""
    num_bytes: Count
    """Size of the image."""
    end: int
    """Position behind the sample's last member and its padding."""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """SHA-256 of the image."""
    stored_size: tuple[Side, Side]
    """(H, W) of the file as stored."""
    orientation: int = Field(ge=1, le=8)
    """EXIF orientation."""
    polygons: list[list[Coordinate]]
    """x, y, x, y, ... in the upright frame; float32."""
    ignore: list[bool]
    """Whether each polygon is a don't-care region."""

    @model_validator(mode="after")
    def _parts_agree(self) -> "IndexedImage":
        if self.offset + self.num_bytes > self.end:
            raise ValueError(f"the image ends at {self.offset + self.num_bytes}, after its sample at {self.end}")
        if len(self.polygons) != len(self.ignore):
            raise ValueError(f"{len(self.polygons)} polygons and {len(self.ignore)} flags; expected one each")
        if any(len(polygon) % 2 or len(polygon) < 6 for polygon in self.polygons):
            raise ValueError("a polygon without 3 or more pairs x, y")
        return self


class ShardIndex(Section):
    """Content of index.json."""

    version: Literal[1] = 1
    num_listed: Count
    """Number of images before any was skipped."""
    shards: list[Shard]
    images: list[IndexedImage]

    @model_validator(mode="after")
    def _images_lie_in_shards(self) -> "ShardIndex":
        for image in self.images:
            if image.shard >= len(self.shards) or image.end > self.shards[image.shard].num_bytes:
                raise ValueError(f"{image.filename!r} lies outside the shards")
        return self


def parse_index(content: bytes, place: str) -> ShardIndex:
    """Returns the checked index. `place` is the path or URL of the file, for messages.

    Raises:
        InputError: the content is not an index that this version reads.
    """
    try:
        return ShardIndex.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = shown(".".join(map(str, first["loc"]))) or "the file"
        raise InputError(
            f"{place}: not an index of shards that this version reads: {where}: {shown(first['msg'])}; write the shards again with "
            "scripts/prepare_data.py shards=true"
        ) from None
