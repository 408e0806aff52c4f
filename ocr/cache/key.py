"""What makes an entry valid: a SHA-256 over everything that can change it. An entry is served under its own key only.

key = SHA-256(recipe, sample, image)
recipe   pipeline, targets, entry layout, loader, device type, versions of code and libraries: alike for a whole split
sample   size, orientation, polygons with their don't-care flags, and the plan's matrix
image    the bytes of the file
"""

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import dali_pipelines
import ocr
from dali_pipelines.config import PipelineConfig
from dali_pipelines.source import PlannedSample
from ocr.cache.entry import EntryLayout
from ocr.datasets.image_source import ImageSource
from ocr.datasets.manifest import Manifest
from ocr.datasets.signature import Signature
from ocr.environment import digest_of_sources, package_versions
from ocr.targets import TargetConfig

NOT_IN_ENTRIES = {
    "augmentation",
    "max_megapixels",
    "num_threads",
    "output_layout",
    "preallocate_decoder",
    "prefetch_queue_depth",
}
"""Keys of the pipeline that leave a deterministic input as it is."""
CODE = ("cache", "datasets", "targets", "polygons.py")
"""Parts of `ocr` that make an entry; of dali_pipelines it is all."""


def recipe_digest(pipeline: PipelineConfig, targets: TargetConfig, layout: EntryLayout, **other: Any) -> bytes:
    """Of all that the entries of a split share. `other`: the loader's name, the type of the device, ..."""
    recipe = {
        "pipeline": pipeline.model_dump(mode="json", exclude=NOT_IN_ENTRIES),
        "targets": targets.model_dump(mode="json"),
        "layout": asdict(layout),
        "versions": package_versions(),
        "code": code_digest(),
        **other,
    }
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).digest()


@cache
def code_digest() -> str:
    """Of the source files that make an entry: another one after any change of them."""
    folder = Path(ocr.__file__).parent
    sources = [Path(dali_pipelines.__file__).parent, *(folder / part for part in CODE)]
    return digest_of_sources(sources)


def sample_digest(manifest: Manifest, sample: PlannedSample) -> bytes:
    """Of one sample's annotation and place in the input."""
    index = sample.index
    digest = hashlib.sha256()
    for part in (manifest.stored_sizes[index], manifest.orientations[index], sample.input_from_original):
        digest.update(part.tobytes())
    digest.update(repr(sample.resized_size).encode())
    for polygon in manifest.polygons.polygons_of(index):
        digest.update(len(polygon).to_bytes(4, "little") + polygon.tobytes())
    digest.update(manifest.polygons.ignore_of(index).tobytes())
    return digest.digest()


def entry_key(recipe: bytes, sample: bytes, image: bytes) -> bytes:
    """32 bytes, from the three digests."""
    return hashlib.sha256(recipe + sample + image).digest()


class ImageDigests:
    """Digests of images' bytes, computed again when a file's size, inode, or time of modification or change differs.

    The time of change (ctime) cannot be set back, so a file rewritten with its old size and old mtime is noticed too.

    Args:
        images: of the split.
        indices: the image of each place that is asked for.
    """

    def __init__(self, images: ImageSource, indices: Sequence[int]) -> None:
        self._images, self._indices = images, indices
        self._signatures: list[Signature | None] = [None] * len(indices)
        self._digests: list[bytes | None] = [None] * len(indices)

    def refresh(self) -> None:
        """Looks at all files, and reads those that are new or changed."""
        signatures = [self._images.signature(index) for index in self._indices]
        changed = [place for place, signature in enumerate(signatures) if signature != self._signatures[place]]
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing lets go of the GIL
            digests = list(pool.map(lambda place: self._images.digest(self._indices[place]), changed))
        for place, digest in zip(changed, digests, strict=True):
            self._signatures[place], self._digests[place] = signatures[place], digest

    def digest(self, place: int) -> bytes | None:
        """Of one file as it was at the last `refresh`; None where it could not be read."""
        return self._digests[place]

    def signature(self, place: int) -> Signature | None:
        """Of one file as it was at the last `refresh`."""
        return self._signatures[place]

    def is_unchanged(self, place: int) -> bool:
        """Whether the file is still the one that was read at the last `refresh`."""
        return self._images.signature(self._indices[place]) == self._signatures[place]
