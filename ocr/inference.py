"""Runs a trained network on images: evaluation against annotations, and prediction without them."""

import hashlib
import json
import logging
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from torch import nn

from ocr.atomic_write import explained_write, refuse_unwritable, write_durably
from ocr.checkpoint import file_sha256
from ocr.command_line import is_given, silence_libraries
from ocr.config import (
    NOT_SET,
    DataSection,
    DatasetsConfig,
    EvaluateConfig,
    InferenceConfig,
    LoaderName,
    PredictConfig,
    TrainConfig,
)
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.image_checks import IMAGE_EXTENSIONS
from ocr.datasets.image_list import find_images
from ocr.datasets.schemas import DatasetConfig
from ocr.device import resolve_device
from ocr.errors import InputError, SignalExit
from ocr.given_files import weights_path
from ocr.loaders.engines import check_dali, has_dali
from ocr.memory.out_of_memory import ExplainOutOfMemory
from ocr.memory.remedies import inference_remedies
from ocr.metrics.cleval import CLEvalMetric
from ocr.metrics.pooled_counts import PooledCounts, with_margin
from ocr.metrics.review import sweep_thresholds
from ocr.pages.detector import PageDetector
from ocr.placement import Placement
from ocr.postprocess.boxes import Detections
from ocr.prediction_lines import PredictionLines
from ocr.predictions import draw_picture, save_picture, write_entries
from ocr.report.compare import Comparison, OtherRun
from ocr.report.findings import Findings
from ocr.report.page import ReportPage
from ocr.report.worst import WorstMaps
from ocr.report.write import Evaluated, find, shown_changes, shown_images, write_report
from ocr.restore import restore_for_inference, what_results_depend_on
from ocr.splits import build_dataset, draw_if_synthetic
from ocr.training.callbacks.between_batches import StopBetweenBatches
from ocr.training.callbacks.memory import FollowForOutOfMemory
from ocr.training.callbacks.pictures import draw_all
from ocr.training.callbacks.progress_bar import InferenceBar
from ocr.training.callbacks.progress_lines import ProgressLines
from ocr.training.children import kill_children
from ocr.training.datamodule import DBNetDataModule
from ocr.training.devices import RunEnvironment
from ocr.training.evaluation import IOU_THRESHOLDS
from ocr.training.interruption import RunStopped, StopSignals, leave_checkpoints_alone
from ocr.training.module import DBNetModule
from ocr.training.rendered_forward import RenderedForward, build_page_detector
from ocr.training.result_lines import ResultLines
from ocr.training.resume import data_fingerprint
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
    with _Progress(run_dir, "hydra.run.dir", is_named=is_given("hydra.run.dir")) as progress, RunLock(run_dir):
        settings, model = restore_for_inference(config)
        settings = _with_loader_of_this_machine(settings, config.loader)
        settings, dataset = _evaluated_split(config, settings, run_dir)
        if other is not None:
            other.count(dataset.manifest, IOU_THRESHOLDS)
        header = _header(config, settings, dataset, evaluated=True, reviewed=True)
        maps = WorstMaps(run_dir / "worst_maps", dataset.manifest.filenames, config.report.num_images)
        with PredictionLines(run_dir, header, dataset.manifest.filenames) as file:
            lines = progress.lines = ResultLines(file, dataset.manifest, with_truth=True, worst=maps)
            for image in lines.reviewed():
                maps.note(image.index, image.matches[0])
            pages = _page_detector(config, settings, model)
            module = DBNetModule(model, settings, dataset.manifest, with_cleval=True, lines=lines, pages=pages)
            _run_once(settings, dataset, module, lines, progress.signals)
            evaluated = _evaluated(settings, dataset, lines, other)
            findings, comparison = find(evaluated, config.report, settings.logger.num_pictures)
            metrics = _metrics(findings, lines.failed_files())
            write_durably(run_dir / "metrics.json", json.dumps(metrics, indent=1).encode())
            write_entries(run_dir / "predictions.json", lines.entries())
            _write_report(config, settings, evaluated, findings, comparison, metrics, maps, run_dir)
    _say_scores(metrics)
    log.info("everything is in %s", run_dir)
    return metrics


def predict(config: PredictConfig, run_dir: Path) -> Path:
    """Finds text in images. Returns the folder it writes predictions.json and the pictures to.

    predictions.jsonl gets a line for each image as it is done. A prediction that was interrupted in the same folder is continued.

    Raises:
        InputError: there is no such image, the output lies among the images, loader=webdataset, or another process writes to the
            output.
        OutOfMemory: RAM or GPU memory ran out; the message names a smaller batch size.
        SignalExit: SIGTERM (code 143) or Ctrl-C (130) ended the prediction.
    """
    split_config, names, output = _images_and_output(config, run_dir)
    log.info("writing to %s", output)
    key = "hydra.run.dir" if is_given("hydra.run.dir") and config.output == NOT_SET else "output"
    with _Progress(output, key, is_named=config.output != NOT_SET or is_given(key)) as progress:
        settings, model = restore_for_inference(config)
        settings = _with_loader_of_this_machine(settings, config.loader)
        settings = _with_loose_files(settings)
        with RunLock(output, key):
            dataset = build_dataset(
                _for_one_pass(split_config), settings, training=False, names=names, before_training=False
            )
            header = _header(config, settings, dataset, drawn=config.draw)
            draw = partial(_draw, dataset, output / "pictures") if config.draw else None
            with PredictionLines(output, header, dataset.manifest.filenames) as file:
                lines = progress.lines = ResultLines(file, dataset.manifest, with_truth=False, draw=draw)
                pages = _page_detector(config, settings, model)
                module = DBNetModule(model, settings, dataset.manifest, lines=lines, pages=pages)
                _run_once(settings, dataset, module, lines, progress.signals)
                num_found = _NumTexts(lines.entries())
                write_entries(output / "predictions.json", num_found)
    log.info("%d texts found in %d images", num_found.num_texts, num_found.num_images)
    log.info("everything is in %s", output)
    return output


def _evaluated(
    settings: TrainConfig, dataset: ValidatedOCRDataset, lines: ResultLines, other: OtherRun | None
) -> Evaluated:
    thresholds = sweep_thresholds(settings.postprocess.bin_thresh, settings.postprocess.box_thresh)
    return Evaluated(dataset, lines.reviewed(), IOU_THRESHOLDS, thresholds, settings.pipeline.image_size, other)


def _write_report(
    config: EvaluateConfig,
    settings: TrainConfig,
    evaluated: Evaluated,
    findings: Findings,
    comparison: Comparison | None,
    metrics: dict[str, Any],
    maps: WorstMaps,
    run_dir: Path,
) -> None:
    """Writes report.html, and the worst images to pictures/."""
    drawn = {image.index: image.detections() for image in findings.worst[: settings.logger.num_pictures]}
    for _ in draw_all(evaluated.dataset, drawn, run_dir / "pictures"):
        pass
    maps.drop_others()
    split, manifest = evaluated.dataset.config, evaluated.dataset.manifest
    num_left_out = manifest.num_listed - len(manifest)
    left_out = f"{num_left_out:,} of {manifest.num_listed:,}; audit_{config.split}*.json says why"
    shown_settings = [
        *([("images left out as unusable", left_out)] if num_left_out else ()),
        ("checkpoint", config.checkpoint),
        ("split", f"{config.split}: {split.places}"),
        ("image_size", str(settings.pipeline.image_size)),
        ("precision", settings.trainer.precision),
        *((f"postprocess.{name}", str(getattr(settings.postprocess, name))) for name in _SHOWN_POSTPROCESS),
    ]
    cleval = ", ".join(f"{name} {value:.4f}" for name, value in metrics["cleval"].items())
    of_sets = [
        (name, f"hmean {with_margin(own['hmean'], own['hmean_error'])}, {own['images']:,} images")
        for name, own in metrics.get("sets", {}).items()
    ]
    report = ReportPage(
        title=f"Evaluation of {Path(config.checkpoint).name} on {config.split}",
        settings=shown_settings,
        iou_thresholds=IOU_THRESHOLDS,
        box_thresh=settings.postprocess.box_thresh,
        findings=findings,
        more_scores=[("CLEval", cleval), *of_sets],
        failed=list(metrics["failed_files"].items()),
        images=shown_images(evaluated, findings, config.report, maps),
        comparison=comparison,
        changes=shown_changes(evaluated, comparison, config.report) if comparison is not None else (),
    )
    write_report(run_dir / "report.html", report)


class _Progress:
    """Context manager that ends a command after a signal with a line that says how many images are done and what continues it.

    Args:
        folder: where the command writes.
        key: the setting that chooses the folder.
        is_named: the user named the folder, so the same command writes there again.

    Raises:
        SignalExit: a signal came.
    """

    def __init__(self, folder: Path, key: str, *, is_named: bool) -> None:
        self.signals = StopSignals("ending after this batch; what is done is kept")
        self.lines: ResultLines | None = None
        """The results; None: not opened yet."""
        self._folder, self._key, self._is_named = folder, key, is_named

    def __enter__(self) -> "_Progress":
        self.signals.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.signals.__exit__(kind, error, traceback)
        if not isinstance(error, RunStopped):
            return
        kill_children()
        name, again = signal.Signals(error.signum).name, f"{self._key}={self._folder}"
        how = "the same command" if self._is_named else f"the same command with {again}"
        if self.lines is None:
            log.warning("%s ended the run before it came to the images; %s starts it again", name, how)
        else:
            done, path = self.lines.num_done, self.lines.lines.path
            log.warning(
                "%s ended the run: %d of %d images are done, in %s; %s continues",
                name,
                done,
                self.lines.num_images,
                path,
                how,
            )
        raise SignalExit(128 + error.signum) from None


class _NumTexts:
    """Iterates over entries of predictions.json and counts them."""

    def __init__(self, entries: Iterator[tuple[str, dict[str, Any]]]) -> None:
        self.num_images = self.num_texts = 0
        self._entries = entries

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for name, entry in self._entries:
            self.num_images += 1
            self.num_texts += len(entry["words"])
            yield name, entry


def _page_detector(config: InferenceConfig, settings: TrainConfig, model: nn.Module) -> PageDetector | None:
    """Returns what looks closer at pages; None: the command has neither `tile` nor `rotations`."""
    device = resolve_device(settings.device)
    return build_page_detector(config, settings, RenderedForward(model, settings, device))


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


def _header(
    config: InferenceConfig, settings: TrainConfig, dataset: ValidatedOCRDataset, **command: bool
) -> dict[str, str]:
    """Returns digests of what the results depend on: the checkpoint, the images with their annotations, and the settings."""
    images = hashlib.sha256(data_fingerprint(dataset.manifest)["sha256"].encode())
    for index in range(len(dataset.manifest)):
        # Size and mtime: a copy of a folder has other inodes. Shards have no numbers here; their index is part of the manifest.
        state = (dataset.manifest.images.signature(index) or ())[1:3]
        images.update(repr(state).encode())
    split = dataset.config
    described = what_results_depend_on(settings) | {
        "device": resolve_device(settings.device).type,
        "image_loading": split.image_loading_config.model_dump(mode="json"),
        "cache": split.cache_config.model_dump(
            mode="json", include={"dtype", "cache_transformed_tensors", "directory"}
        ),
        **command,
    }
    if config.tile != "none" or config.rotations != "none":  # without them, earlier lines stay valid
        described |= {"tile": config.tile, "rotations": config.rotations}
    text = json.dumps(described, sort_keys=True, default=str)
    return {
        "checkpoint": file_sha256(weights_path(config.checkpoint)),
        "images": images.hexdigest(),
        "settings": hashlib.sha256(text.encode()).hexdigest(),
    }


def _draw(dataset: ValidatedOCRDataset, directory: Path, index: int, detections: Detections) -> None:
    """Saves the picture of an image's detections.

    Raises:
        StorageError: the picture cannot be written.
    """
    filename = dataset.manifest.filenames[index]
    picture = draw_picture(dataset.load_image(index).image_array, detections)
    with explained_write(directory / filename, "give the same command again, which continues"):
        save_picture(picture, directory, filename, dataset.config.image_extensions)


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
            settings = _with_loose_files(settings)
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
    split_config = _for_one_pass(split_config)
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


def _images_and_output(config: PredictConfig, run_dir: Path) -> tuple[DatasetConfig, list[str] | None, Path]:
    """Returns the data set to predict, its files (None: all images of its folder), and the folder to write to.

    Prediction reads the images of all formats in a folder, unless image_extensions is set.
    """
    if config.loader == "webdataset":
        raise InputError("predict.py finds text in image files; use loader=dali or torch")
    template = config.datasets.predict_dataset.config
    if template.image_extensions == DatasetConfig.model_fields["image_extensions"].default:
        template = template.model_copy(update={"image_extensions": IMAGE_EXTENSIONS})
    if config.images == NOT_SET:
        draw_if_synthetic(config)
    given = config.datasets.split("predict").image_path if config.images == NOT_SET else config.images
    given = (given,) if isinstance(given, str) else given
    output = run_dir if config.output == NOT_SET else Path(config.output)
    for entry in given:
        if output.resolve().is_relative_to(Path(entry).resolve()):
            raise InputError(
                f"output={output} lies in the folder of images, {entry}; the next run would read its own pictures"
            )
    refuse_unwritable(output, f"output={output}")
    folder, names = Path(given[0]), None
    if len(given) > 1 or not folder.is_dir():
        folder, names = find_images(given, template.image_extensions)
    own = next((name for name in names or () if (folder / name).is_relative_to(output.resolve() / "pictures")), None)
    if own is not None:
        raise InputError(f"output={output} holds {own}, one of the images to read; choose another output")
    return template.model_copy(update={"image_path": str(folder), "annotation_path": None}), names, output


def _for_one_pass(config: DatasetConfig) -> DatasetConfig:
    """Returns the configuration without caches in memory, which pay off only from the second pass on. The disk tier stays.

    Inputs are rounded as in the run's validation, so the scores are the same.
    """
    cache = config.cache_config.model_copy(update={"device_budget": 0, "ram_budget": 0})
    return config.model_copy(update={"preload_images": False, "prenormalize_images": False, "cache_config": cache})


def _with_loader_of_this_machine(settings: TrainConfig, given: LoaderName | None) -> TrainConfig:
    """Returns the settings with PyTorch's loader in place of DALI's if DALI is missing and the user named no loader.

    Raises:
        InputError: the user named a loader that needs DALI.
    """
    if settings.engine != "dali" or has_dali():
        return settings
    if given is not None:
        check_dali(given)
    log.info("NVIDIA DALI is not installed: PyTorch workers read the images (loader=torch)")
    if settings.loader == "dali":
        return settings.model_copy(update={"loader": "torch"})
    reader = settings.dataloader.model_copy(update={"shard_reader": "webdataset"})
    return settings.model_copy(update={"dataloader": reader})


def _with_loose_files(settings: TrainConfig) -> TrainConfig:
    """Returns the settings with the same engine but loose image files, even if the training read shards."""
    return settings.model_copy(update={"loader": settings.engine})


def _run_once(
    settings: TrainConfig, dataset: ValidatedOCRDataset, module: DBNetModule, lines: ResultLines, signals: StopSignals
) -> None:
    """Runs the network over the images that have no line yet, and writes their lines.

    Batches are those of a run without interruption, so the results are the same bit for bit. A batch is run again as a whole if
    some of its images have no line.

    Raises:
        RunStopped: a signal came. The results until then are written.
    """
    if lines.num_done == lines.num_images:
        log.info("all images are done; delete %s to run them again", lines.lines.path)
        return
    batch_size = settings.dataloader.eval_batch_size
    first_batch = lines.num_done // batch_size
    remedies = inference_remedies(batch_size, settings.pipeline.image_size)
    # Target maps are made only so that the disk cache has the entries of a training run.
    val_targets = settings.trainer.val_loss and dataset.config.cache_config.directory is not None
    data = DBNetDataModule(
        None,
        dataset,
        settings.dataloader,
        loader=settings.engine,
        val_targets=val_targets,
        num_evaluated=first_batch * batch_size,
    )
    lines.failures = lambda: data.evaluation_failures
    with ExplainOutOfMemory(lambda in_validation: remedies) as explain:
        name = "evaluation" if lines.with_truth else "prediction"
        progress = (
            InferenceBar(name, first_batch)
            if sys.stderr.isatty()
            else ProgressLines(inference=name, first_batch=first_batch)
        )
        trainer = _build_trainer(settings, [FollowForOutOfMemory(explain), StopBetweenBatches(signals), progress])
        signals.defer()
        try:
            trainer.predict(module, datamodule=data, return_predictions=False)
            lines.finish()
        finally:  # Lightning skips the teardown when a run ends with an error
            data.teardown("predict")
    signals.stop_deferring()


def _build_trainer(settings: TrainConfig, callbacks: list[Callback]) -> lightning.Trainer:
    silence_libraries()  # a Python program that calls this module has not done so
    device = resolve_device(settings.device)
    trainer = lightning.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        plugins=[RunEnvironment(Placement())],  # one process, whatever torchrun and srun say
        precision=settings.trainer.precision,  # type: ignore[arg-type]
        logger=False,
        callbacks=callbacks,
        enable_progress_bar=sys.stderr.isatty(),
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    leave_checkpoints_alone(trainer)
    return trainer
