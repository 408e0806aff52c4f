"""A split of several data sets: one manifest after the other, as if it were one."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ocr.datasets.audit import load_manifest
from ocr.datasets.audit_report import AuditReport
from ocr.datasets.manifest import SET_SHIFT, Manifest, ManifestSet
from ocr.datasets.names import Names
from ocr.datasets.schemas import DatasetConfig
from ocr.polygons import PolygonBatch


def load_split(
    config: DatasetConfig, *, max_megapixels: float, report_path: Path | None = None
) -> tuple[Manifest, dict[str, AuditReport]]:
    """Returns the checked manifest of a split, and the report on each of its data sets by name. A single set has an empty name.

    Args:
        report_path: JSON file for the findings. Several sets get a file each: audit_train.json becomes audit_train_NAME.json.

    Raises:
        FileNotFoundError, ValueError: the image folder or the annotations of a set are missing or unreadable as a whole.
        InputError: a set must not be used as it is, or has no usable image.
    """
    config = config.without_list_of_one()
    manifests, reports = {}, {}
    for name, one in config.each_set().items():
        path = report_path
        if name and report_path is not None:
            path = report_path.with_name(f"{report_path.stem}_{name}{report_path.suffix}")
        manifests[name], reports[name] = load_manifest(one, max_megapixels=max_megapixels, report_path=path)
    if not config.sets:
        return manifests[""], reports
    return concatenate_manifests(manifests, [one.weight for one in config.sets]), reports


def concatenate_manifests(manifests: Mapping[str, Manifest], weights: Sequence[float | None]) -> Manifest:
    """Returns one manifest with the images of all, set after set.

    If two sets have an image of the same name, all names get that of their set in front: `receipts/a.jpg`.

    Args:
        manifests: manifests of files, by the name of the data set.
        weights: weight of each set.
    """
    parts = list(manifests.values())
    names = [filename for part in parts for filename in part.filenames]
    prefixes = [""] * len(parts)
    if len(set(names)) < len(names):
        prefixes = [f"{name}/" for name in manifests]
        names = [prefix + filename for prefix, part in zip(prefixes, parts, strict=True) for filename in part.filenames]
    return Manifest(
        image_paths=Names.of(path for part in parts for path in part.image_paths),
        filenames=Names.of(names),
        sample_ids=np.concatenate([part.sample_ids + (place << SET_SHIFT) for place, part in enumerate(parts)]),
        stored_sizes=np.concatenate([part.stored_sizes for part in parts]),
        orientations=np.concatenate([part.orientations for part in parts]),
        polygons=PolygonBatch.concatenate([part.polygons for part in parts]),
        num_listed=sum(part.num_listed for part in parts),
        is_converted=np.concatenate([_converted(part) for part in parts]),
        sets=tuple(
            ManifestSet(name, len(part), part.num_listed, prefix, weight)
            for (name, part), prefix, weight in zip(manifests.items(), prefixes, weights, strict=True)
        ),
    )


def _converted(manifest: Manifest) -> npt.NDArray[np.bool_]:
    return np.zeros(len(manifest), np.bool_) if manifest.is_converted is None else manifest.is_converted


def maps_names(config: DatasetConfig, manifest: Manifest) -> Sequence[str]:
    """Returns each image's offline maps without `.npz`: a path relative to `config.maps_dir`, or absolute with several sets."""
    if not manifest.sets:
        return manifest.filenames
    names: list[str] = []
    for one, part in zip(config.each_set().values(), manifest.sets, strict=True):
        maps_dir, first = one.maps_dir.resolve(), len(names)
        filenames = manifest.filenames[first : first + part.num_images]
        names += [str(maps_dir / filename.removeprefix(part.prefix)) for filename in filenames]
    return names
