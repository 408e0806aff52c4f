"""Writes a split as tar shards, and withdraws shards that no longer fit."""

import logging
from pathlib import Path

from ocr.config import PrepareConfig
from ocr.datasets.audit import load_manifest
from ocr.datasets.manifest import Manifest
from ocr.datasets.schemas import DatasetConfig
from ocr.datasets.shards.index import INDEX_NAME, OLD_INDEX_NAME
from ocr.datasets.shards.writer import PlacedShard, ShardWriter
from ocr.preparation.jobs import SplitJob
from ocr.preparation.outcomes import Outcome, outcomes_in_threads
from ocr.preparation.report import FilesReport, report_on_files

log = logging.getLogger(__name__)


def withdraw_shards(job: SplitJob, config: PrepareConfig) -> None:
    """Removes the index of the split's shards, before the data that they hold change."""
    index = job.shards_dir / INDEX_NAME
    if index.is_file() and not config.shards:
        log.warning("%s shards: outdated, so their index was removed; write them again with shards=true", job.name)
    for name in (INDEX_NAME, OLD_INDEX_NAME):
        (job.shards_dir / name).unlink(missing_ok=True)


def write_shards(job: SplitJob, config: PrepareConfig, num_workers: int) -> FilesReport:
    """Writes the shards of a split whose images and annotations are in place; existing equal shards are kept."""
    writer = ShardWriter(_prepared_manifest(job, config), job.shards_dir, job.name, config.shard_size)

    def write(shard: PlacedShard) -> Outcome:
        num_bytes = writer.write(shard)
        return Outcome("kept") if num_bytes is None else Outcome("made", num_bytes)

    outcomes = list(outcomes_in_threads(write, writer.placed(f"Writing shards of {job.name}"), num_workers))
    writer.finish()
    return report_on_files(job.shards_dir, writer.names, outcomes)


def _prepared_manifest(job: SplitJob, config: PrepareConfig) -> Manifest:
    """Returns the manifest that loaders of the prepared loose files get, so that the shards hold the same."""
    if job.image_dir is None:
        return job.manifest
    prepared = DatasetConfig(
        image_path=str(job.image_dir),
        annotation_path=str(job.annotation_path),
        image_extensions=tuple({Path(filename).suffix.lower() for filename in job.manifest.filenames}),
        check_pixels=False,
    )
    return load_manifest(prepared, max_megapixels=config.pipeline.max_megapixels)[0]
