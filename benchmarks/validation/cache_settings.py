"""Compares the scores and costs of a validation with each cache setting: no setting may change the scores."""

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
import torch

from benchmarks.report import Table
from ocr.cache.budget import FreeMemory, plan_tiers
from ocr.cache.entry import entry_layout
from ocr.checkpoint import load_checkpoint
from ocr.config import TrainConfig
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.plan import SamplePlanner
from ocr.datasets.schemas import CacheConfig, DatasetConfig
from ocr.device import resolve_device, resolve_loading, resolve_pipeline, resolve_precision
from ocr.loaders.engines import Engine
from ocr.loaders.loader import BatchLoader
from ocr.training.datamodule import DBNetDataModule
from ocr.training.module import DBNetModule

SCORES = ("hmean", "precision", "recall")


def compare_cache_settings(
    checkpoint: Path, data: Path, size: int | None = None, *, with_two_processes: bool = True
) -> dict[str, Any]:
    """Returns scores, seconds and bytes of a checkpoint with each cache setting, each evaluated twice.

    Args:
        data: folder with images/val and jsons/val.json.
        size: longest side; None: as the checkpoint was trained.
        with_two_processes: also evaluate with two processes, which take long to start.

    Returns:
        `rows`: by setting, the first and the second pass; `bytes`: by setting, predicted and taken; `images`, `precision`, `size`.
    """
    config, model = load_checkpoint(checkpoint)
    device = resolve_device("auto")
    precision = resolve_precision(config.trainer.precision, device)
    pipeline = resolve_pipeline(config.pipeline, precision)
    if size:
        pipeline = pipeline.model_copy(update={"image_size": size})
    split = DatasetConfig(image_path=str(data / "images/val"), annotation_path=str(data / "jsons/val.json"))
    dataset = ValidatedOCRDataset(split, SamplePlanner(pipeline, training=False, seed=0), config.targets)
    module = DBNetModule(model, config, dataset.manifest)
    results: dict[str, Any] = {"rows": {}, "bytes": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name, cache in _cache_settings(dataset, device, Path(folder)).items():
            loader = _loader(dataset, config, device, cache)
            trainer = _trainer(device, precision)
            results["rows"][name] = [_validate(trainer, module, loader) for _ in range(2)]
            if loader.cache is not None:
                store = loader.cache.store
                predicted = {"gpu": store.plan.gpu_bytes, "ram": store.plan.ram_bytes}
                taken = {tier: store.num_bytes[tier] for tier in predicted}
                results["bytes"][name] = {"predicted": predicted, "taken": taken}
            loader.close()
        if with_two_processes:
            passes = _validate_in_two_processes(dataset, config, module, precision, Path(folder))
            results["rows"]["float16, two processes"] = passes
    return results | {"images": len(dataset), "precision": precision, "size": pipeline.image_size}


def _cache_settings(dataset: ValidatedOCRDataset, device: torch.device, folder: Path) -> dict[str, CacheConfig | None]:
    half = (len(dataset) // 2) * entry_layout(dataset, with_targets=True).num_bytes
    on_gpu = device.type == "cuda"
    on_disk = {"device_budget": 0, "ram_budget": 0, "directory": str(folder / "cache")}
    settings: dict[str, dict[str, Any]] = {
        "float16": {},
        "float16, half fits": {"device_budget": half if on_gpu else 0, "ram_budget": 0 if on_gpu else half},
        "float16, disk only": on_disk,
        "float16, disk of the run before": on_disk,
        "uint8": {"dtype": "uint8"},
        "uint8, disk only": on_disk | {"dtype": "uint8"},
    }
    if on_gpu:
        settings["float16, pinned RAM"] = {"device_budget": 0}
    caches: dict[str, CacheConfig | None] = {"no cache": None}
    return caches | {name: CacheConfig(cache_transformed_tensors=True, **cache) for name, cache in settings.items()}


def _loader(
    dataset: ValidatedOCRDataset, config: TrainConfig, device: torch.device, cache: CacheConfig | None
) -> BatchLoader:
    batch_size = resolve_loading(config.dataloader, config.pipeline.image_size, device).eval_batch_size
    tiers = None
    if cache is not None:
        dataset.config = dataset.config.model_copy(update={"cache_config": cache})
        layout = entry_layout(dataset, with_targets=True)
        tiers = plan_tiers(layout, len(dataset), batch_size, cache, device, FreeMemory.measured(device))
    engine = Engine(config.engine, device, config.dataloader.num_workers)
    return BatchLoader(dataset, engine, batch_size, with_targets=True, tiers=tiers)


def _trainer(device: torch.device, precision: str, num_processes: int = 1) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=num_processes,
        strategy="ddp_spawn" if num_processes > 1 else "auto",
        precision=precision,  # type: ignore[arg-type]  # one of Lightning's literals
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def _validate(trainer: lightning.Trainer, module: DBNetModule, loader: BatchLoader) -> dict[str, float]:
    """Returns scores, hits, misses, and seconds by part."""
    loader.reset_statistics()
    started = time.perf_counter()
    (scores,) = trainer.validate(module, dataloaders=loader, verbose=False)
    seconds = module.evaluation.seconds
    return {name: scores[f"val/{name}"] for name in SCORES} | {
        "seconds": time.perf_counter() - started,
        "data_wait_seconds": loader.wait_seconds,
        "forward_seconds": seconds.forward,
        "hits": loader.statistics.epoch_hits,
        "misses": loader.statistics.epoch_misses,
    }


def _validate_in_two_processes(
    dataset: ValidatedOCRDataset, config: TrainConfig, module: DBNetModule, precision: str, folder: Path
) -> list[dict[str, float]]:
    """Returns the scores of two passes with gloo, on the CPU; the second reads what the first left on disk."""
    cache = CacheConfig(cache_transformed_tensors=True, directory=str(folder / "two"))
    dataset.config = dataset.config.model_copy(update={"cache_config": cache})
    passes = []
    for _ in range(2):
        data = DBNetDataModule(None, dataset, config.dataloader, loader=config.engine, val_targets=True)
        (scores,) = _trainer(torch.device("cpu"), precision, num_processes=2).validate(
            module.cpu(), datamodule=data, verbose=False
        )
        passes.append({name: scores[f"val/{name}"] for name in SCORES})
    return passes


def cache_settings_table(results: Mapping[str, Any]) -> Table:
    """Returns one line per setting. `results` holds those of `compare_cache_settings` and `provenance`."""
    rows = []
    for name, (first, second) in results["rows"].items():
        mark = "" if all(first[score] == second[score] for score in SCORES) else " *"
        cells = [f"{second[score]:.6f}" for score in SCORES]
        if "hits" in second:
            cells.append(f"{second['hits']}/{second['hits'] + second['misses']}")
            cells += [f"{second[key]:.3f}" for key in ("data_wait_seconds", "forward_seconds", "seconds")]
        rows.append([name + mark, *cells, *[""] * (7 - len(cells))])
    return Table(
        f"{results['images']} images at {results['size']}, {results['precision']}, {results['device']}",
        ("cache", *SCORES, "hits", "data wait s", "forward s", "total s"),
        rows,
        ["second pass, from the cache; the first pass gave the same scores unless marked *"],
    )
