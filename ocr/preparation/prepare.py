"""From a data set of any supported format to one that is ready for training.

    <output>/prepared.json                      what was prepared from where, and what came of it
    <output>/jsons/{train,val,test}.json        checked annotations, in the frame of the images beside them
    <output>/images/{train,test}/               images, upright unless canonical=false
    <output>/images_val_canonical/              those of val; images/val/ with canonical=false
    <output>/<folder of the images>_maps/       target maps of val and test
    <output>/shards/{train,val,test}/           images and annotations once more as tar shards, with shards=true

The annotations of a split are written last, and removed before its images change: what an interrupted run leaves behind has
no annotations that do not fit; likewise the index of shards. With `output` equal to the data set's own folder only maps are
added, beside its images, and shards.
"""

import fcntl
import io
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import simplejpeg
from PIL import Image
from rich.console import Console
from rich.progress import track

from ocr.atomic_write import write_atomically
from ocr.config import NOT_SET, PrepareConfig
from ocr.datasets.audit import AuditReport, BadDataError, load_manifest
from ocr.datasets.decode import decode_upright
from ocr.datasets.formats.upstage import annotations_of
from ocr.datasets.image_checks import ImageProblem, read_header
from ocr.datasets.manifest import Manifest
from ocr.datasets.plan import SamplePlanner, letterbox
from ocr.datasets.schemas import DatasetConfig
from ocr.datasets.shards.index import INDEX_NAME
from ocr.datasets.shards.writer import ShardWriter
from ocr.errors import InputError
from ocr.splits import draw_if_synthetic
from ocr.targets import make_targets
from ocr.targets.offline import UnfitMaps, check_maps, maps_file, maps_key, write_maps

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
SPLITS_WITH_MAPS = ("val", "test")
MARKER = "prepared.json"
JPEG_QUALITY = 98
"""Of turned JPEGs. Mean difference to the pixels that were turned 0.04 to 0.53 of 255 (at 95 0.11 to 1.12), files 0.9 to 2.6
times as large; the file's own tables and quality keep its size, but cost up to 2.1 where the grid of blocks moves."""
_TURNED_SAMPLING = {"422": "440", "440": "422", "411": "444"}
"""Chroma sampling once the axes are swapped. There is no 4:4:1."""

Action = Literal["copied", "turned", "encoded", "kept", "made", "failed"]


@dataclass(frozen=True)
class Outcome:
    """What became of one file."""

    action: Action
    """copied byte for byte; turned without loss (PNG); encoded anew (JPEG); kept from an earlier run; made (maps,
    shards); failed."""
    num_bytes: int = 0
    """Written."""
    reason: str | None = None
    """Why it failed."""


@dataclass(frozen=True)
class FilesReport:
    """What became of the files of one kind in one split."""

    folder: str
    counts: dict[str, int]
    """Files by action."""
    num_bytes: int
    """Written."""
    failed: dict[str, str]
    """Reason by file name."""

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {action}" for action, count in sorted(self.counts.items())) or "none"
        return f"{counts}, {self.num_bytes / 1e6:.1f} MB written to {self.folder}"


@dataclass(frozen=True)
class SplitReport:
    """What was found and written for one split."""

    source: dict[str, str]
    """image_path and annotation_path."""
    num_listed: int
    num_usable: int
    num_words: int
    num_skipped_words: int
    findings: dict[str, int]
    """What is wrong, by kind; each is in audit_<split>.json of the run."""
    annotations: str | None
    """The JSON file written."""
    images: FilesReport | None
    maps: FilesReport | None
    shards: FilesReport | None


@dataclass(frozen=True)
class _Split:
    """One split on its way."""

    name: str
    source: dict[str, str]
    manifest: Manifest
    audit: AuditReport
    image_dir: Path | None
    """Where images and annotations go; None: they stay where they are."""
    annotation_path: Path | None
    maps_dir: Path | None
    shards_dir: Path
    """Where its shards are, or would be."""


def prepare_data(config: PrepareConfig, run_dir: Path) -> dict[str, SplitReport]:
    """Checks and writes all splits, and gives back what became of each, by name.

    Nothing is written before all splits passed their audit. Writes audit_<split>.json and report.json to `run_dir`.

    Raises:
        InputError: the data set is not fit for use, or the output folder is not one to write into.
    """
    log.info("writing to %s, the reports to %s", config.output, run_dir)
    draw_if_synthetic(config)
    sources = {name: config.datasets.split(name) for name in _split_names(config)}
    output, is_in_place = _checked_output(config, sources)
    audited = _audit_all(sources, config, run_dir)
    splits = [_destined(name, sources[name], *audited[name], config, output, is_in_place) for name in sources]
    num_workers = config.num_workers or len(os.sched_getaffinity(0))
    try:
        with _claimed(output):
            if not is_in_place:
                _mark(output, config, {split.name: split.source for split in splits}, reports=None)
            reports = {split.name: _prepare_split(split, config, num_workers) for split in splits}
            if not is_in_place:
                _mark(output, config, {split.name: split.source for split in splits}, reports)
    except KeyboardInterrupt:
        raise SystemExit("Interrupted. What is written is whole; the same command goes on from here.") from None
    except OSError as error:
        raise InputError(
            f"{error.filename or output}: cannot be written: {error.strerror}; what is written so far is kept, and the same "
            "command goes on from there"
        ) from error
    document = {name: asdict(report) for name, report in reports.items()}
    write_atomically(run_dir / "report.json", json.dumps(document, indent=1, ensure_ascii=False).encode())
    for name, report in reports.items():
        _log_report(name, report)
    log.info("prepared data in %s, what is wrong with it in %s/audit_*.json", output, run_dir)
    return reports


def _split_names(config: PrepareConfig) -> list[str]:
    """The splits asked for, or those whose images are there."""
    if config.splits is not None:
        return list(dict.fromkeys(config.splits))
    names = [
        name
        for name in SPLITS
        if config.datasets.has_split(name) and Path(config.datasets.split(name).image_path).is_dir()
    ]
    if not names:
        looked_at = [config.datasets.split(name).image_path for name in SPLITS if config.datasets.has_split(name)]
        raise InputError(
            f"there is no split to prepare: found none of the folders {looked_at}; choose a data set, for example "
            "data=upstage dataset_base_path=FOLDER"
        )
    return names


def _checked_output(config: PrepareConfig, sources: dict[str, DatasetConfig]) -> tuple[Path, bool]:
    """The output folder, and whether it is the data set's own.

    Raises:
        InputError: something that is not ours could be written over.
    """
    output = Path(config.output).resolve()
    if config.dataset_base_path != NOT_SET and output == Path(config.dataset_base_path).resolve():
        if config.canonical or not (config.maps or config.shards):
            raise InputError(
                f"output={config.output} is the data set itself, whose images and annotations are never changed; set "
                "canonical=false maps=true to add the target maps beside its images (shards=true: shards), or choose another "
                "folder"
            )
        return output, True
    for source in sources.values():
        for path in (source.image_path, source.annotation_path):
            if path is not None and output.is_relative_to(Path(path).resolve()):
                raise InputError(f"output={config.output} lies in the data set's own {path}; choose another folder")
    if output.exists() and not output.is_dir():
        raise InputError(f"output={config.output} is a file; a folder is needed")
    if output.is_dir() and any(output.iterdir()):
        _check_marker(output, config, {name: _source_of(source) for name, source in sources.items()})
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
    if marker["canonical"] != config.canonical:
        raise InputError(
            f"output={config.output} was prepared with canonical={str(marker['canonical']).lower()}; choose another folder, "
            "or the same setting"
        )


def _read_marker(output: Path) -> dict[str, Any] | None:
    try:
        marker = json.loads((output / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_ours = isinstance(marker, dict) and {"sources", "canonical", "splits"} <= marker.keys()
    return marker if is_ours else None


def _mark(
    output: Path,
    config: PrepareConfig,
    sources: dict[str, dict[str, str]],
    reports: dict[str, SplitReport] | None,
) -> None:
    """Marks the folder as ours; splits of earlier runs stay in the list. reports: None while the run is under way."""
    earlier = _read_marker(output) or {"sources": {}, "splits": {}}
    document = {
        "sources": earlier["sources"] | sources,
        "canonical": config.canonical,
        "is_complete": reports is not None,
        "image_size": config.pipeline.image_size,
        "targets": config.targets.model_dump(mode="json"),
        "splits": earlier["splits"] | {name: asdict(report) for name, report in (reports or {}).items()},
    }
    write_atomically(output / MARKER, json.dumps(document, indent=1, ensure_ascii=False).encode())


@contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Keeps a second run out of the folder for as long as this one lasts; ends with the process, however that ends."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{folder}: another run is preparing data in this folder; wait for it to end") from None
        except OSError as error:  # file systems that lock no folders
            log.debug("%s cannot be locked: %s", folder, error.strerror)
        yield
    finally:
        os.close(descriptor)


def _audit_all(
    sources: dict[str, DatasetConfig], config: PrepareConfig, run_dir: Path
) -> dict[str, tuple[Manifest, AuditReport]]:
    """The audit of each split; what is wrong with all of them is raised at once."""
    audited, problems = {}, []
    for name, source in sources.items():
        if source.annotation_path is None:
            raise InputError(f"datasets.{name}_dataset.config.annotation_path is not set; annotations are needed")
        if config.on_bad_sample is not None:
            source = source.model_copy(update={"on_bad_sample": config.on_bad_sample})
        try:
            audited[name] = load_manifest(
                source,
                max_megapixels=config.pipeline.max_megapixels,
                report_path=run_dir / f"audit_{name}.json",
            )
        except BadDataError as error:
            problems.append(f"{name}: {error}")
        else:
            log.info("%s: %s", name, audited[name][1].summary().plain.rstrip())
    if problems:
        raise InputError("\n".join(problems))
    return audited


def _source_of(source: DatasetConfig) -> dict[str, str]:
    return {
        "image_path": str(Path(source.image_path).resolve()),
        "annotation_path": str(Path(source.annotation_path or "").resolve()),
    }


def _destined(
    name: str,
    source: DatasetConfig,
    manifest: Manifest,
    audit: AuditReport,
    config: PrepareConfig,
    output: Path,
    is_in_place: bool,
) -> _Split:
    """The split with the places its files go to; in place, images and annotations have none."""
    wants_maps = config.maps and name in SPLITS_WITH_MAPS
    shards_dir = output / "shards" / name
    if is_in_place:
        maps_dir = source.maps_dir.resolve() if wants_maps else None
        return _Split(name, _source_of(source), manifest, audit, None, None, maps_dir, shards_dir)
    is_canonical_val = name == "val" and config.canonical
    image_dir = output / ("images_val_canonical" if is_canonical_val else f"images/{name}")
    written = DatasetConfig(image_path=str(image_dir))
    return _Split(
        name=name,
        source=_source_of(source),
        manifest=manifest,
        audit=audit,
        image_dir=image_dir,
        annotation_path=output / "jsons" / f"{name}.json",
        maps_dir=written.maps_dir if wants_maps else None,
        shards_dir=shards_dir,
    )


def _prepare_split(split: _Split, config: PrepareConfig, num_workers: int) -> SplitReport:
    manifest = split.manifest
    usable = [_stays_inside(filename) for filename in manifest.filenames]
    images = maps = shards = None
    if split.image_dir is not None and split.annotation_path is not None:
        outcomes = _write_images(split, split.image_dir, split.annotation_path, config, num_workers)
        usable = [outcome.action != "failed" for outcome in outcomes]
        images = _files_report(split.image_dir, manifest.filenames, outcomes)
        document = annotations_of(manifest, np.flatnonzero(usable), canonical=config.canonical)
        content = json.dumps(document, ensure_ascii=False).encode()
        if not split.annotation_path.is_file() or split.annotation_path.read_bytes() != content:
            _outdate_shards(split, config)
            write_atomically(split.annotation_path, content)
    if split.maps_dir is not None:
        outcomes = _write_all_maps(manifest, np.flatnonzero(usable), split.maps_dir, config, num_workers, split.name)
        maps = _files_report(split.maps_dir, manifest.filenames, outcomes)
    if config.shards:
        shards = _write_shards(_loose(split, config), split.shards_dir, split.name, config.shard_size, num_workers)
    return SplitReport(
        source=split.source,
        num_listed=manifest.num_listed,
        num_usable=len(manifest),
        num_words=split.audit.num_words,
        num_skipped_words=split.audit.num_skipped_words,
        findings=split.audit.counts,
        annotations=str(split.annotation_path) if split.annotation_path is not None else None,
        images=images,
        maps=maps,
        shards=shards,
    )


def _outdate_shards(split: _Split, config: PrepareConfig) -> None:
    """Removes the index of shards that no longer fit, or will not in a moment."""
    index = split.shards_dir / INDEX_NAME
    if index.is_file() and not config.shards:
        log.warning(
            "%s shards: of an earlier state, and not to be read any more; write them again with shards=true", split.name
        )
    index.unlink(missing_ok=True)


def _loose(split: _Split, config: PrepareConfig) -> Manifest:
    """The split as loaders of loose files find it once it is written, so that its shards hold just the same."""
    if split.image_dir is None:
        return split.manifest
    written = DatasetConfig(
        image_path=str(split.image_dir),
        annotation_path=str(split.annotation_path),
        image_extensions=tuple({Path(filename).suffix.lower() for filename in split.manifest.filenames}),
        check_pixels=False,
    )
    return load_manifest(written, max_megapixels=config.pipeline.max_megapixels)[0]


def _write_shards(manifest: Manifest, folder: Path, name: str, shard_size: int, num_workers: int) -> FilesReport:
    writer = ShardWriter(manifest, folder, name, shard_size)

    def write(number: int) -> Outcome:
        num_bytes = writer.write(number)
        return Outcome("kept") if num_bytes is None else Outcome("made", num_bytes)

    outcomes = _in_threads(write, range(len(writer)), f"Writing shards of {name}", num_workers)
    writer.finish()
    return _files_report(folder, writer.names, outcomes)


def _files_report(folder: Path, names: Sequence[str], outcomes: Sequence[Outcome]) -> FilesReport:
    failed = {
        filename: outcome.reason
        for filename, outcome in zip(names, outcomes, strict=True)
        if outcome.reason is not None
    }
    return FilesReport(
        folder=str(folder),
        counts=dict(Counter(outcome.action for outcome in outcomes)),
        num_bytes=sum(outcome.num_bytes for outcome in outcomes),
        failed=failed,
    )


def _log_report(name: str, report: SplitReport) -> None:
    for kind, files in (("images", report.images), ("maps", report.maps), ("shards", report.shards)):
        if files is None:
            continue
        log.info("%s %s: %s", name, kind, files)
        for filename, reason in files.failed.items():
            log.warning("%s %s: failed: %s: %s", name, kind, filename, reason)


def _write_images(
    split: _Split, image_dir: Path, annotation_path: Path, config: PrepareConfig, num_workers: int
) -> list[Outcome]:
    """One outcome an image; those of an earlier run are kept where their source is what it was."""
    manifest, canonical = split.manifest, config.canonical

    def write(index: int) -> Outcome:
        source, filename = Path(manifest.image_paths[index]), manifest.filenames[index]
        orientation = int(manifest.orientations[index]) if canonical else 1
        return write_image(source, image_dir / filename, orientation)

    outcomes = [_outcome_before(manifest, index, image_dir, canonical) for index in range(len(manifest))]
    due = [index for index, outcome in enumerate(outcomes) if outcome is None]
    if due:
        annotation_path.unlink(missing_ok=True)
        _outdate_shards(split, config)
    written = iter(_in_threads(write, due, f"Writing images of {split.name}", num_workers))
    return [outcome or next(written) for outcome in outcomes]


def _outcome_before(manifest: Manifest, index: int, image_dir: Path, canonical: bool) -> Outcome | None:
    """kept or failed, or None for an image that has to be written."""
    filename = manifest.filenames[index]
    if not _stays_inside(filename):
        return Outcome("failed", reason="its name leads out of the folder of images")
    is_copy = not canonical or manifest.orientations[index] == 1
    try:
        source, written = os.stat(manifest.image_paths[index]), os.stat(image_dir / filename)
    except OSError:
        return None
    is_current = source.st_mtime_ns == written.st_mtime_ns and written.st_size > 0
    if is_current and (not is_copy or source.st_size == written.st_size):
        return Outcome("kept")
    return None


def _stays_inside(filename: str) -> bool:
    path = PurePosixPath(filename)
    return not path.is_absolute() and ".." not in path.parts


def write_image(source: Path, destination: Path, orientation: int) -> Outcome:
    """Copies an image byte for byte, or turns it upright; the copy gets the time of modification of its source.

    Args:
        orientation: EXIF orientation 1 to 8 to turn by; 1 copies.

    Raises:
        OSError: the destination cannot be written. A source that cannot be read is an outcome, not an error.
    """
    try:
        mtime_ns = source.stat().st_mtime_ns
        encoded = source.read_bytes()
        action: Action = "copied"
        if orientation != 1:
            encoded, action = turned_file(encoded, orientation)
    except (OSError, ValueError, ImageProblem) as error:
        return Outcome("failed", reason=f"{source}: cannot be read: {error}")
    write_atomically(destination, encoded, mtime_ns)
    return Outcome(action, len(encoded))


def turned_file(encoded: bytes, orientation: int) -> tuple[bytes, Action]:
    """The file of the upright picture, of the same format and without EXIF, and whether it was turned or encoded anew.

    A PNG keeps its RGB or grey levels exactly; a JPEG is encoded again with its own chroma sampling. Colour profiles and
    transparency, which no loader here reads, are dropped.

    Raises:
        ValueError, OSError, ImageProblem: the bytes are no image, or a damaged one.
    """
    header = read_header(io.BytesIO(encoded))
    pixels = decode_upright(encoded, orientation)
    is_gray = header.color == "gray"
    if header.format == "PNG":
        file = io.BytesIO()
        Image.fromarray(pixels[..., 0] if is_gray else pixels).save(file, "PNG")
        return file.getvalue(), "turned"
    if is_gray:
        return simplejpeg.encode_jpeg(pixels[..., :1].copy(), JPEG_QUALITY, "GRAY", "GRAY", fastdct=False), "encoded"
    sampling = header.sampling.replace(":", "")
    if orientation >= 5:
        sampling = _TURNED_SAMPLING.get(sampling, sampling)
    if sampling not in ("444", "422", "440", "420", "411"):
        sampling = "444"
    return simplejpeg.encode_jpeg(pixels, JPEG_QUALITY, "RGB", sampling, fastdct=False), "encoded"


def _write_all_maps(
    manifest: Manifest,
    indices: np.ndarray,
    maps_dir: Path,
    config: PrepareConfig,
    num_workers: int,
    split_name: str,
) -> list[Outcome]:
    """One outcome an image of the manifest; failed for those that are not among `indices`."""

    def write(index: int) -> Outcome:
        return _write_maps_of(manifest, index, maps_dir, config)

    written = _in_threads(write, [int(index) for index in indices], f"Writing maps of {split_name}", num_workers)
    outcomes = [Outcome("failed", reason="its image failed")] * len(manifest)
    for index, outcome in zip(indices, written, strict=True):
        outcomes[index] = outcome
    return outcomes


def _write_maps_of(manifest: Manifest, index: int, maps_dir: Path, config: PrepareConfig) -> Outcome:
    image_size = config.pipeline.image_size
    height, width = manifest.original_sizes[index]
    planner = SamplePlanner(config.pipeline, training=False, seed=0)
    sample = letterbox(index, (int(height), int(width)), image_size, is_padding=False)
    polygons_input = planner.input_polygons(manifest, [sample])
    size = (image_size, image_size)
    key = maps_key(polygons_input, size, config.targets)
    path = maps_file(maps_dir, manifest.filenames[index])
    map_side = image_size // config.targets.map_stride
    try:
        check_maps(path, key, (map_side, map_side))
    except UnfitMaps:
        return Outcome("made", write_maps(path, make_targets(polygons_input, size, config.targets), key))
    return Outcome("kept")


def _in_threads(
    work: Callable[[int], Outcome], indices: Sequence[int], description: str, num_workers: int
) -> list[Outcome]:
    """The outcomes in order, with a progress bar. Decoding, drawing and compressing run outside of the GIL."""
    pool = ThreadPoolExecutor(num_workers)
    try:
        outcomes = track(
            pool.map(work, indices),
            description,
            total=len(indices),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        return list(outcomes)
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C or a full disk nothing new is begun
