"""Computes the key of an entry: SHA-256 of everything that can change the entry. An entry is served only under its own key.

key = SHA-256(recipe, sample, image)
recipe   pipeline, targets, entry layout, loader, device type, versions of code and libraries: the same for a whole split
sample   size, orientation, polygons with their don't-care flags, and the plan's matrix
image    the bytes of the file

Within a run recipe and sample do not change, so an entry that is not on disk has a shorter key: the signature of its file.
"""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from dali_pipelines.config import PipelineConfig, num_cores
from dali_pipelines.signature import Signature
from dali_pipelines.source import PlannedBatch
from ocr.cache.entry import EntryLayout
from ocr.datasets.image_source import ImageSource, ask_each
from ocr.datasets.manifest import Manifest
from ocr.environment import digest_of_sources, package_versions
from ocr.targets.config import TargetConfig

NOT_IN_ENTRIES = {
    "augmentation",
    "max_batch_megapixels",
    "max_megapixels",
    "num_threads",
    "output_layout",
    "preallocate_decoder",
    "prefetch_queue_depth",
}
"""Keys of the pipeline that do not change a deterministic input."""
MAKES_ENTRIES = (
    "dali_pipelines",
    # plan and pixels
    "ocr.datasets.base",
    "ocr.datasets.compiled_plan",
    "ocr.datasets.kept_images",
    "ocr.datasets.orientation",
    "ocr.datasets.philox",
    "ocr.datasets.plan",
    "ocr.loaders.engines",
    "ocr.loaders.fresh",
    "ocr.loaders.shards",
    "ocr.loaders.torch_workers",
    # target maps
    "ocr.polygons",
    "ocr.targets.maps",
    "ocr.targets.numba_maps",
    "ocr.targets.outline",
    "ocr.targets.packing",
    "ocr.targets.target_maps",
    "ocr.targets.triton_maps",
    # layout in memory and on disk
    "ocr.cache.entry",
    "ocr.cache.store",
)
"""Modules and packages whose code can change an entry. tests/ocr/cache/test_code_digest.py says why the other modules that they
import cannot."""


def recipe_digest(pipeline: PipelineConfig, targets: TargetConfig, layout: EntryLayout, **other: Any) -> bytes:
    """Returns the SHA-256 of everything that the entries of a split share.

    Args:
        other: further JSON values that can change entries: the loader's name, the type of the device, ...
    """
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
def code_digest(root: Path = Path(__file__).parents[2]) -> str:
    """Returns the SHA-256, in hex, of the code that makes entries.

    Args:
        root: folder that holds the packages ocr and dali_pipelines.
    """
    places = [root.joinpath(*name.split(".")) for name in MAKES_ENTRIES]
    return digest_of_sources([place if place.is_dir() else place.with_suffix(".py") for place in places])


def sample_digest(manifest: Manifest, samples: PlannedBatch, row: int) -> bytes:
    """Returns the SHA-256 of one sample's annotation and of its place in the input."""
    index = int(samples.indices[row])
    digest = hashlib.sha256()
    place = samples.input_from_original[row], samples.resized_sizes[row]
    for part in (manifest.stored_sizes[index], manifest.orientations[index], *place):
        digest.update(part.tobytes())
    for polygon in manifest.polygons.polygons_of(index):
        digest.update(len(polygon).to_bytes(4, "little") + polygon.tobytes())
    digest.update(manifest.polygons.ignore_of(index).tobytes())
    return digest.digest()


def entry_key(recipe: bytes, sample: bytes, image: bytes) -> bytes:
    """Returns the key, 32 bytes, for the digests of recipe, sample and image."""
    return hashlib.sha256(recipe + sample + image).digest()


class ImageDigests:
    """The digest of each image, recomputed when the signature of its file (inode, size, mtime, ctime) changes.

    The ctime cannot be set back, so a file rewritten with its old size and mtime is noticed too.

    Args:
        images: images of the split.
        indices: position of each image in the manifest, in the order of the entries.
        by_content: a digest is the SHA-256 of the file, which is the same in every run and on every machine. False: it is the
            signature, which holds for this run only and spares reading the file.
    """

    def __init__(self, images: ImageSource, indices: Sequence[int], *, by_content: bool) -> None:
        self._images, self._indices, self._by_content = images, indices, by_content
        self._signatures: list[Signature | None] = [None] * len(indices)
        self._digests: list[bytes | None] = [None] * len(indices)
        self._is_new = True

    def refresh(self) -> list[int]:
        """Checks the signatures of all files and returns the entries of the changed ones; the first time all entries."""
        signatures = ask_each(self._images.signature, self._indices)
        changed = [
            entry for entry, signature in enumerate(signatures) if self._is_new or signature != self._signatures[entry]
        ]
        self._is_new = False
        for entry in changed:
            self._signatures[entry] = signatures[entry]
        if self._by_content:
            with ThreadPoolExecutor(num_cores()) as pool:  # hashing releases the GIL
                digests = pool.map(lambda entry: self._images.digest(self._indices[entry]), changed)
                for entry, digest in zip(changed, digests, strict=True):
                    self._digests[entry] = digest
        return changed

    def digest(self, entry: int) -> bytes | None:
        """Returns the digest of the image at the last `refresh`; None if it could not be read."""
        if self._by_content:
            return self._digests[entry]
        signature = self._signatures[entry]
        return None if signature is None else repr(signature).encode()

    def signature(self, entry: int) -> Signature | None:
        """Returns the signature of the file at the last `refresh`; None if there was no such file."""
        return self._signatures[entry]

    def is_unchanged(self, entry: int) -> bool:
        """Returns whether the file still has the signature of the last `refresh`."""
        return self._images.signature(self._indices[entry]) == self._signatures[entry]
