"""Writes the target maps of a split that do not exist yet or no longer fit."""

from collections.abc import Sequence
from pathlib import Path

from ocr.config import PrepareConfig
from ocr.datasets.manifest import Manifest
from ocr.datasets.plan import SamplePlanner
from ocr.file_names import path_inside
from ocr.polygons import PolygonBatch
from ocr.preparation.outcomes import Outcome, in_threads
from ocr.preparation.report import FilesReport, report_on_files
from ocr.targets.maps import make_targets
from ocr.targets.offline import UnfitMaps, check_maps, maps_file, maps_key, maps_name, write_maps


def write_split_maps(
    manifest: Manifest, usable: Sequence[int], maps_dir: Path, config: PrepareConfig, num_workers: int, split: str
) -> FilesReport:
    """Writes the maps of the images at the positions `usable`, and reports all others as failed."""
    planner = SamplePlanner(config.pipeline, training=False, seed=0)

    def write(index: int) -> Outcome:
        samples = planner.plan_batch(manifest, [index], epoch=0)
        return _write_maps(maps_dir, manifest.filenames[index], planner.input_polygons(manifest, samples), config)

    written = in_threads(write, usable, f"Writing maps of {split}", num_workers)
    outcomes = [Outcome("failed", reason="its image failed")] * len(manifest)
    for index, outcome in zip(usable, written, strict=True):
        outcomes[index] = outcome
    return report_on_files(maps_dir, manifest.filenames, outcomes)


def _write_maps(maps_dir: Path, filename: str, polygons_input: PolygonBatch, config: PrepareConfig) -> Outcome:
    side, map_side = config.pipeline.image_size, config.pipeline.image_size // config.targets.map_stride
    key = maps_key(polygons_input, (side, side), config.targets)
    try:
        check_maps(maps_file(maps_dir, filename), key, (map_side, map_side))
    except UnfitMaps:
        path = path_inside(maps_dir, maps_name(filename))
        return Outcome("made", write_maps(path, make_targets(polygons_input, (side, side), config.targets), key))
    return Outcome("kept")
