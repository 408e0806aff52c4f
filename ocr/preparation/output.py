"""The output folder: whether it may be written to, the marker of an earlier run, and the lock against a second run."""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ocr.atomic_write import refuse_unwritable, write_atomically
from ocr.config import NOT_SET, PrepareConfig
from ocr.datasets.schemas import DatasetConfig
from ocr.errors import InputError
from ocr.file_lock import lock_of_open_file
from ocr.file_names import json_in_utf8
from ocr.preparation.report import SplitReport

log = logging.getLogger(__name__)

MARKER = "prepared.json"


def paths_of(source: DatasetConfig) -> dict[str, str]:
    """Returns the absolute image_path and annotation_path of a split."""
    return {
        "image_path": str(Path(source.image_path).resolve()),
        "annotation_path": str(Path(source.annotation_path or "").resolve()),
    }


def check_output(config: PrepareConfig, sources: dict[str, DatasetConfig]) -> tuple[Path, bool]:
    """Returns the output folder, and whether it is the folder of the data set itself.

    Raises:
        InputError: writing there could replace files that are not from an earlier run.
    """
    output = Path(config.output).resolve()
    if config.dataset_base_path != NOT_SET and output == Path(config.dataset_base_path).resolve():
        if config.to != "upstage":
            raise InputError(f"output={config.output} is the data set itself; choose another folder for to={config.to}")
        if config.canonical or not (config.maps or config.shards):
            raise InputError(
                f"output={config.output} is the data set itself, whose images and annotations are never changed; set "
                "canonical=false maps=true to add target maps beside its images (shards=true: shards), or choose another folder"
            )
        return output, True
    for source in sources.values():
        for path in (source.image_path, source.annotation_path):
            if path is not None and output.is_relative_to(Path(path).resolve()):
                raise InputError(f"output={config.output} lies in the data set's own {path}; choose another folder")
    if output.exists() and not output.is_dir():
        raise InputError(f"output={config.output} is a file; a folder is needed")
    refuse_unwritable(output, f"output={config.output}")
    if output.is_dir() and any(output.iterdir()):
        _check_marker(output, config, {name: paths_of(source) for name, source in sources.items()})
    return output, False


def _check_marker(output: Path, config: PrepareConfig, sources: dict[str, dict[str, str]]) -> None:
    """Raises InputError unless an earlier run prepared this folder from the same sources."""
    marker = _read_marker(output)
    if marker is None:
        raise InputError(
            f"output={config.output} is not empty and has no {MARKER} of an earlier run; choose a new or an empty folder"
        )
    for name, source in sources.items():
        earlier = marker["sources"].get(name, source)
        if earlier != source:
            raise InputError(
                f"output={config.output} holds {name} as prepared from {earlier}, not from {source}; choose another folder"
            )
    if marker.get("to", "upstage") != config.to:
        raise InputError(
            f"output={config.output} was prepared with to={marker.get('to', 'upstage')}; choose another folder or the same format"
        )
    if marker["canonical"] != config.canonical:
        raise InputError(
            f"output={config.output} was prepared with canonical={str(marker['canonical']).lower()}; choose another folder "
            "or the same setting"
        )


def _read_marker(output: Path) -> dict[str, Any] | None:
    try:
        marker = json.loads((output / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_ours = isinstance(marker, dict) and {"sources", "canonical", "splits"} <= marker.keys()
    return marker if is_ours else None


def write_marker(
    output: Path,
    config: PrepareConfig,
    sources: dict[str, dict[str, str]],
    reports: dict[str, SplitReport] | None,
) -> None:
    """Marks the folder as prepared here, and keeps the entries of splits that only earlier runs prepared.

    Args:
        output: the output folder.
        config: settings of this run.
        sources: the `paths_of` each split, by name.
        reports: report on each split; None while the run is under way.
    """
    earlier = _read_marker(output) or {"sources": {}, "splits": {}}
    document = {
        "sources": earlier["sources"] | sources,
        "to": config.to,
        "canonical": config.canonical,
        "is_complete": reports is not None,
        "image_size": config.pipeline.image_size,
        "targets": config.targets.model_dump(mode="json"),
        "splits": earlier["splits"] | {name: asdict(report) for name, report in (reports or {}).items()},
    }
    write_atomically(output / MARKER, json_in_utf8(json.dumps(document, indent=1, ensure_ascii=False)))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Creates the folder and keeps other runs out of it. The lock ends with the process, even if it is killed.

    Raises:
        InputError: another run holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError as error:  # Windows opens no folders
        log.debug("%s cannot be locked: %s", folder, error.strerror)
        yield
        return
    try:
        try:
            lock_of_open_file(descriptor)
        except BlockingIOError:
            raise InputError(f"{folder}: another run is preparing data in this folder; wait for it to end") from None
        except OSError as error:  # some file systems cannot lock folders
            log.debug("%s cannot be locked: %s", folder, error.strerror)
        yield
    finally:
        os.close(descriptor)
