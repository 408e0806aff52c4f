"""The command prepare_data: audits all splits, then prepares one after the other."""

import logging
from functools import partial
from pathlib import Path

from dali_pipelines.config import AUTO, num_cores
from ocr.config import PrepareConfig
from ocr.datasets.formats.writers import LAYOUTS, WrittenImages, write_annotations
from ocr.device import resolve_device
from ocr.errors import InputError
from ocr.file_names import path_inside, shown
from ocr.image_size import with_size_for_words
from ocr.loaders.config import DataLoaderConfig
from ocr.preparation.annotations import write_upstage
from ocr.preparation.images import known_outcome, write_image
from ocr.preparation.jobs import SplitJob, audited_jobs, chosen_splits
from ocr.preparation.maps import write_split_maps
from ocr.preparation.outcomes import Outcome, in_threads
from ocr.preparation.output import check_output, locked, write_marker
from ocr.preparation.report import SplitReport, report_on_files, write_reports
from ocr.preparation.shards import withdraw_shards, write_shards
from ocr.splits import draw_if_synthetic

log = logging.getLogger(__name__)


def prepare_data(config: PrepareConfig, run_dir: Path) -> dict[str, SplitReport]:
    """Checks and writes all splits, and returns the report on each by name.

    Nothing is written to the output folder before all splits pass their audit. Writes audit_<split>.json and report.json to
    `run_dir`.

    Raises:
        InputError: the data set is not fit for use, or the output folder must not or cannot be written to.
    """
    log.info("Output: %s; reports: %s", config.output, run_dir)
    draw_if_synthetic(config)
    sources = {name: config.datasets.split(name) for name in chosen_splits(config)}
    output, is_in_place = check_output(config, sources)
    jobs = audited_jobs(config, sources, output, is_in_place, run_dir)
    _check_names(jobs, config)
    config = _with_chosen_size(config, jobs)
    paths = {job.name: job.source for job in jobs}
    try:
        with locked(output):
            if not is_in_place:
                write_marker(output, config, paths, reports=None)
            reports = {job.name: _prepare_split(job, config) for job in jobs}
            if not is_in_place:
                write_marker(output, config, paths, reports)
    except KeyboardInterrupt:
        raise SystemExit("Interrupted. All files written are complete; run the same command to continue.") from None
    except OSError as error:
        raise InputError(
            f"{error.filename or output}: cannot be written: {error.strerror}; all files written so far are complete: run the "
            "same command to continue"
        ) from error
    write_reports(reports, run_dir)
    log.info("Prepared data: %s; findings: %s/audit_*.json", output, run_dir)
    return reports


def _check_names(jobs: list[SplitJob], config: PrepareConfig) -> None:
    """Raises InputError if the label file of PaddleOCR, where names are plain text, cannot hold the name of an image."""
    if config.to != "paddleocr":
        return
    for job in jobs:
        for name in job.manifest.filenames:
            try:
                name.encode()
            except UnicodeEncodeError:
                raise InputError(
                    f"{job.source['image_path']}: found the name {shown(name)}; expected UTF-8, which PaddleOCR's label file is "
                    "in; rename the file, or choose another format: to=upstage"
                ) from None


def _with_chosen_size(config: PrepareConfig, jobs: list[SplitJob]) -> PrepareConfig:
    """Returns the configuration with a number for pipeline.image_size=auto, by the training words, and says so.

    Raises:
        InputError: there is no training split among the jobs.
    """
    if config.pipeline.image_size != AUTO:
        return config
    train = next((job for job in jobs if job.name == "train"), None)
    if train is None:
        raise InputError("pipeline.image_size=auto goes by the training words; add train to splits, or give a number")
    batch_size = DataLoaderConfig().batch_size
    device = resolve_device("auto")
    pipeline = with_size_for_words(config.pipeline, train.manifest, config.targets.min_side, batch_size, device)
    if config.maps and config.to == "upstage":
        log.info("the target maps suit runs with pipeline.image_size=%d", pipeline.image_size)
    return config.model_copy(update={"pipeline": pipeline})


def _prepare_split(job: SplitJob, config: PrepareConfig) -> SplitReport:
    manifest = job.manifest
    num_workers = config.num_workers or num_cores()
    usable = list(range(len(manifest)))
    images = maps = shards = None
    if job.image_dir is not None and job.annotation_path is not None:
        outcomes = _write_images(job, job.image_dir, job.annotation_path, config, num_workers)
        usable = [index for index, outcome in enumerate(outcomes) if outcome.action != "failed"]
        images = report_on_files(job.image_dir, manifest.filenames, outcomes)
        _write_annotations(job, job.annotation_path, usable, config)
    if job.maps_dir is not None:
        maps = write_split_maps(manifest, usable, job.maps_dir, config, num_workers, job.name)
    if config.shards:
        shards = write_shards(job, config, num_workers)
    return SplitReport(
        source=job.source,
        num_listed=manifest.num_listed,
        num_usable=len(manifest),
        num_words=job.audit.num_words,
        num_skipped_words=job.audit.num_skipped_words,
        findings=job.audit.counts,
        annotations=str(job.annotation_path) if job.annotation_path is not None else None,
        images=images,
        maps=maps,
        shards=shards,
    )


def _write_images(
    job: SplitJob, image_dir: Path, annotation_path: Path, config: PrepareConfig, num_workers: int
) -> list[Outcome]:
    """Writes the images that no earlier run has written, and returns the outcome of each image of the manifest.

    Before the first image changes, the annotations and the index of the shards are removed.
    """
    manifest = job.manifest

    def write(index: int) -> Outcome:
        source, filename = Path(manifest.image_paths[index]), manifest.filenames[index]
        orientation = int(manifest.orientations[index]) if config.canonical else 1
        return write_image(source, path_inside(image_dir, filename), orientation)

    known = [known_outcome(manifest, index, image_dir, config.canonical) for index in range(len(manifest))]
    due = [index for index, outcome in enumerate(known) if outcome is None]
    if due:
        annotation_path.unlink(missing_ok=True)
        withdraw_shards(job, config)
    written = iter(in_threads(write, due, f"Writing images of {job.name}", num_workers))
    return [outcome or next(written) for outcome in known]


def _write_annotations(job: SplitJob, path: Path, usable: list[int], config: PrepareConfig) -> None:
    """Writes the annotations of the usable images; in our own format, only if the file has other content."""
    if config.to != "upstage" and job.image_dir is not None:
        images, root = WrittenImages(job.manifest, usable, config.canonical), Path(config.output).resolve()
        write_annotations(path, images, LAYOUTS[config.to].writer, job.image_dir, root)
        return
    write_upstage(
        path,
        job.manifest,
        usable,
        canonical=config.canonical,
        before_change=partial(withdraw_shards, job, config),
    )
