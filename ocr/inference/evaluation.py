"""Evaluation: a trained network on images with annotations."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ocr.atomic_write import write_durably
from ocr.command_line import is_given
from ocr.config import NOT_SET, DataSection, DatasetsConfig, EvaluateConfig, TrainConfig
from ocr.datasets.base import ValidatedOCRDataset
from ocr.errors import InputError
from ocr.inference.one_pass import (
    Progress,
    for_one_pass,
    header_of,
    page_detector,
    run_once,
    with_loader_of_this_machine,
    with_loose_files,
)
from ocr.metrics.cleval import CLEvalMetric
from ocr.metrics.pooled_counts import PooledCounts, with_margin
from ocr.metrics.review import sweep_thresholds
from ocr.prediction_lines import PredictionLines
from ocr.predictions import write_entries
from ocr.report.compare import OtherRun
from ocr.report.findings import Findings
from ocr.report.page import ReportPage
from ocr.report.reviewed import ReviewedImage
from ocr.report.worst import WorstMaps
from ocr.report.write import Evaluated, Found, find, shown_changes, shown_images, write_report
from ocr.restore import restore_for_inference
from ocr.splits import build_dataset, draw_if_synthetic
from ocr.training.callbacks.pictures import draw_all
from ocr.training.evaluation import IOU_THRESHOLDS
from ocr.training.module import DBNetModule
from ocr.training.result_lines import ResultLines
from ocr.training.run_lock import RunLock
from ocr.training.scores import STRICT_IOU

log = logging.getLogger(__name__)

_STRICT = f"hmean_iou{STRICT_IOU}"
_SHOWN_POSTPROCESS = ("bin_thresh", "box_thresh", "min_side", "output", "unclip_ratio", "unclip_offset")
"""Keys of the section `postprocess` that the report names."""


def evaluate(config: EvaluateConfig, run_dir: Path) -> dict[str, Any]:
    """Returns the metrics of a checkpoint on one split.

    Writes metrics.json, predictions.json, report.html, pictures/ and worst_maps/ below `run_dir`. predictions.jsonl gets a line for
    each image as it is done. An evaluation that was interrupted in the same folder is continued.

    Raises:
        InputError: the split has no annotations, loader=dali without DALI, another process writes to the folder, or there is no
            other run on these images to compare with.
        OutOfMemory: RAM or GPU memory ran out; the message names a smaller batch size.
        SignalExit: SIGTERM (code 143) or Ctrl-C (130) ended the evaluation.
    """
    log.info("writing to %s", run_dir)
    other = OtherRun(config.compare) if config.compare is not None else None
    with Progress(run_dir, "hydra.run.dir", is_named=is_given("hydra.run.dir")) as progress, RunLock(run_dir):
        settings, model = restore_for_inference(config)
        settings = with_loader_of_this_machine(settings, config.loader)
        settings, dataset = _evaluated_split(config, settings, run_dir)
        if other is not None:
            other.count(dataset.manifest, IOU_THRESHOLDS)
        header = header_of(config, settings, dataset, evaluated=True, reviewed=True)
        maps = WorstMaps(run_dir / "worst_maps", dataset.manifest.filenames, config.report.num_images)
        with PredictionLines(run_dir, header, dataset.manifest.filenames) as file:
            lines = progress.lines = ResultLines(file, dataset.manifest, with_truth=True, worst=maps)
            for image in lines.reviewed():
                maps.note(image.index, image.matches[0])
            pages = page_detector(config, settings, model)
            module = DBNetModule(model, settings, dataset.manifest, with_cleval=True, lines=lines, pages=pages)
            run_once(settings, dataset, module, lines, progress.signals)
            evaluated = _evaluated(settings, dataset, lines, other)
            num_pictures = settings.logger.num_pictures
            found = find(evaluated, config.report, num_pictures)
            metrics = _metrics(found.findings, lines.failed_files())
            write_durably(run_dir / "metrics.json", json.dumps(metrics, indent=1).encode())
            write_entries(run_dir / "predictions.json", lines.entries())
            _draw_worst(dataset, found.findings.worst[:num_pictures], run_dir / "pictures")
            maps.drop_others()
            write_report(run_dir / "report.html", _report_page(config, settings, evaluated, found, metrics, maps))
    _say_scores(metrics)
    log.info("everything is in %s", run_dir)
    return metrics


def _evaluated(
    settings: TrainConfig, dataset: ValidatedOCRDataset, lines: ResultLines, other: OtherRun | None
) -> Evaluated:
    thresholds = sweep_thresholds(settings.postprocess.bin_thresh, settings.postprocess.box_thresh)
    return Evaluated(dataset, lines.reviewed(), IOU_THRESHOLDS, thresholds, settings.pipeline.image_size, other)


def _draw_worst(dataset: ValidatedOCRDataset, worst: Sequence[ReviewedImage], folder: Path) -> None:
    for _ in draw_all(dataset, {image.index: image.detections() for image in worst}, folder):
        pass


def _report_page(
    config: EvaluateConfig,
    settings: TrainConfig,
    evaluated: Evaluated,
    found: Found,
    metrics: Mapping[str, Any],
    maps: WorstMaps,
) -> ReportPage:
    findings, comparison = found
    cleval = ", ".join(f"{name} {value:.4f}" for name, value in metrics["cleval"].items())
    of_sets = [
        (name, f"hmean {with_margin(own['hmean'], own['hmean_error'])}, {own['images']:,} images")
        for name, own in metrics.get("sets", {}).items()
    ]
    return ReportPage(
        title=f"Evaluation of {Path(config.checkpoint).name} on {config.split}",
        settings=_shown_settings(config, settings, evaluated.dataset),
        iou_thresholds=IOU_THRESHOLDS,
        box_thresh=settings.postprocess.box_thresh,
        findings=findings,
        more_scores=[("CLEval", cleval), *of_sets],
        failed=list(metrics["failed_files"].items()),
        images=shown_images(evaluated, findings, config.report, maps),
        comparison=comparison,
        changes=shown_changes(evaluated, comparison, config.report) if comparison is not None else (),
    )


def _shown_settings(
    config: EvaluateConfig, settings: TrainConfig, dataset: ValidatedOCRDataset
) -> list[tuple[str, str]]:
    """Returns the settings that the report names."""
    manifest = dataset.manifest
    num_left_out = manifest.num_listed - len(manifest)
    left_out = f"{num_left_out:,} of {manifest.num_listed:,}; audit_{config.split}*.json says why"
    return [
        *([("images left out as unusable", left_out)] if num_left_out else ()),
        ("checkpoint", config.checkpoint),
        ("split", f"{config.split}: {dataset.config.places}"),
        ("image_size", str(settings.pipeline.image_size)),
        ("precision", settings.trainer.precision),
        *((f"postprocess.{name}", str(getattr(settings.postprocess, name))) for name in _SHOWN_POSTPROCESS),
    ]


def _metrics(findings: Findings, failed_files: dict[str, str]) -> dict[str, Any]:
    """Returns the content of metrics.json."""
    cleval = CLEvalMetric()
    cleval.add(findings.characters)
    metrics = _scores(findings.counts.whole) | {
        "cleval": {name: float(value) for name, value in cleval.compute().items()},
        "failed_files": failed_files,
    }
    sets = {name: _scores(pooled) for name, pooled in findings.counts.of_sets.items()}
    return metrics | ({"sets": sets} if sets else {})


def _scores(pooled: Sequence[PooledCounts]) -> dict[str, Any]:
    """Returns the scores, the standard errors of both hmeans, None with fewer than two images, and the number of images."""
    scores, strict = (counts.scores() for counts in pooled)
    errors = [None if (error := counts.errors()) is None else error.hmean for counts in pooled]
    return {
        "hmean": scores.hmean,
        "precision": scores.precision,
        "recall": scores.recall,
        _STRICT: strict.hmean,
        "hmean_error": errors[0],
        f"{_STRICT}_error": errors[1],
        "images": pooled[0].num_images,
    }


def _say_scores(metrics: Mapping[str, Any]) -> None:
    lines = [f"{_told(metrics)}; CLEval hmean {metrics['cleval']['hmean']:.4f}"]
    lines += [f"{name}: {_told(own)}" for name, own in metrics.get("sets", {}).items()]
    if any("±" in line for line in lines):
        lines.append("± is twice the standard error: how far other images of the same kind would move a score")
    for line in lines:
        log.info("%s", line)


def _told(metrics: Mapping[str, Any]) -> str:
    """Returns the scores of a split or of one of its sets as a line."""
    hmean, strict = (with_margin(metrics[name], metrics[f"{name}_error"]) for name in ("hmean", _STRICT))
    return (
        f"hmean {hmean}, precision {metrics['precision']:.4f}, recall {metrics['recall']:.4f} at IoU {IOU_THRESHOLDS[0]:g}; "
        f"hmean {strict} at IoU {STRICT_IOU:g}; {metrics['images']:,} images"
    )


def _evaluated_split(
    config: EvaluateConfig, settings: TrainConfig, run_dir: Path
) -> tuple[TrainConfig, ValidatedOCRDataset]:
    """Returns the settings for the split and its audited data set.

    If the command names no data set, it is the one that the checkpoint was trained with, which must exist.
    """
    source: DataSection = settings
    if config.datasets.has_split(config.split):
        source = config
        if config.loader is None:
            settings = with_loose_files(settings)
    elif config.dataset_base_path != NOT_SET or config.datasets != DatasetsConfig():
        _refuse_missing_split(config, config.split)
        raise InputError(
            f"datasets.{config.split}_dataset.config.image_path is not set, but other keys of the data set are; add "
            "data=upstage (or another), or give none of them to evaluate on the data set the checkpoint was trained with"
        )
    draw_if_synthetic(source)
    if settings.loader != "webdataset":
        _refuse_missing_split(source, config.split)
    split_config = source.datasets.split(config.split)
    missing = [one.image_path for one in split_config.each_set().values() if not Path(one.image_path).is_dir()]
    if source is not config and settings.loader != "webdataset" and missing:
        raise InputError(
            f"{missing[0]}: no such folder; the checkpoint was trained with the data set in "
            f"{settings.dataset_base_path}; give one, for example data=upstage dataset_base_path=FOLDER, or data=synthetic, which "
            "draws it"
        )
    if settings.loader != "webdataset" and any(one.annotation_path is None for one in split_config.each_set().values()):
        raise InputError(
            f"datasets.{config.split}_dataset.config.annotation_path is not set; nothing to evaluate against"
        )
    report_path = run_dir / f"audit_{config.split}.json"
    split_config = for_one_pass(split_config)
    of_source = settings.model_copy(update={"dataset_base_path": source.dataset_base_path})
    return settings, build_dataset(
        split_config, of_source, training=False, report_path=report_path, before_training=False
    )


def _refuse_missing_split(source: DataSection, wanted: str) -> None:
    """Raises InputError if the data set lacks the split but has others, which the message names."""
    there = [name for name in ("val", "test", "train") if _split_exists(source, name)]
    if there and wanted not in there:
        raise InputError(
            f"split={wanted}: the data set in {source.dataset_base_path} has no such split; it has {', '.join(there)}: add "
            f"split={there[0]}"
        )


def _split_exists(source: DataSection, name: str) -> bool:
    """Returns whether the folders of images of a split exist."""
    if not source.datasets.has_split(name):
        return False
    return all(Path(one.image_path).is_dir() for one in source.datasets.split(name).each_set().values())
