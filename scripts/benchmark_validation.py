"""What a validation epoch costs beside its bare forward pass, and that no cache setting changes its result.

    uv run scripts/benchmark_validation.py speed --json FILE
    uv run scripts/benchmark_validation.py settings --checkpoint FILE --data FOLDER --json FILE

speed trains on one batch an epoch and validates 404 drawn images; after each validation the bare forward pass over the same tensors
is timed. settings evaluates a checkpoint on FOLDER (laid out for data=upstage) with each cache setting, twice: the second pass is
served from the cache. Further arguments of speed are overrides, as for scripts/train.py.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import lightning
import torch
from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.table import Table

from ocr.cache.budget import FreeMemory, plan_tiers, resident_set
from ocr.checkpoint import load_checkpoint
from ocr.command_line import prepare
from ocr.config import TrainConfig, validate_config
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.loader import BatchLoader, entry_layout
from ocr.datasets.plan import SamplePlanner
from ocr.datasets.schemas import CacheConfig, DatasetConfig
from ocr.device import resolve_device, resolve_pipeline, resolve_precision
from ocr.environment import device_name, git_commit, package_versions
from ocr.training.datamodule import DBNetDataModule
from ocr.training.fit import train
from ocr.training.module import DBNetModule

NUM_IMAGES = 404
SCORES = ("hmean", "precision", "recall")


def main() -> None:
    arguments, overrides = _parse_arguments()
    prepare()
    results = measure_speed(overrides) if arguments.what == "speed" else compare_settings(arguments)
    results |= {
        "command": sys.argv,
        "device": device_name(resolve_device("auto")),
        "versions": package_versions(),
        "commit": git_commit(),
    }
    Console(width=120).print(_speed_table(results) if arguments.what == "speed" else _settings_table(results))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


def _parse_arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "settings"))
    parser.add_argument("--checkpoint", type=Path, help="settings: a .ckpt file of a run")
    parser.add_argument("--data", type=Path, help="settings: folder with images/val and jsons/val.json")
    parser.add_argument("--size", type=int, help="settings: longest side; default: as the checkpoint was trained")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures and the machine to this file")
    return parser.parse_known_args()


class BareForward(lightning.Callback):
    """Times the forward pass alone over the tensors that the validation has just used."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        loader = trainer.val_dataloaders
        images = [batch.images for batch in loader]  # type: ignore[union-attr]  # views, where they are cached
        _synchronize(pl_module.device)
        started = time.perf_counter()
        with torch.inference_mode(), trainer.precision_plugin.forward_context():
            for batch in images:
                pl_module(batch)
        _synchronize(pl_module.device)
        self.seconds.append(time.perf_counter() - started)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class ResidentSet(lightning.Callback):
    """Notes the RAM of this process after each epoch."""

    def __init__(self) -> None:
        self.num_bytes: list[int] = []

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.num_bytes.append(resident_set())


def measure_speed(overrides: list[str]) -> dict[str, Any]:
    """The epochs of a run that trains one batch an epoch, with the seconds of the bare forward pass beside each."""
    settings = [
        f"synthetic.num_val={NUM_IMAGES}",
        "synthetic.num_train=8",
        "dataset_base_path=outputs/benchmark_validation",
        "trainer.max_epochs=3",
        "trainer.limit_train_batches=1",
        "trainer.check_val_every_n_epoch=1",
        "logger.num_pictures=0",
        *overrides,
    ]
    with initialize_config_dir(str(Path(__file__).resolve().parents[1] / "configs"), version_base="1.3"):
        config = validate_config(TrainConfig, compose("train", overrides=settings))
    bare, memory = BareForward(), ResidentSet()
    with tempfile.TemporaryDirectory() as run_dir:
        summary = train(config, Path(run_dir), callbacks=[bare, memory])
    return {
        "settings": settings,
        "epochs": summary["epochs"],
        "bare_forward_seconds": bare.seconds,
        "resident_set_bytes": memory.num_bytes,
    }


def _speed_table(results: dict[str, Any]) -> Table:
    table = Table(title=f"Validation epochs on {results['device']}: seconds")
    columns = {
        "data wait": "val_data_wait_seconds",
        "forward": "val_forward_seconds",
        "levels": "val_device_postprocess_seconds",
        "polygons": "val_postprocess_seconds",
        "metric": "val_metric_seconds",
        "blocked": "val_blocked_seconds",
        "total": "val_seconds",
    }
    for column in ("epoch", *columns, "bare", "total / bare", "RAM"):
        table.add_column(column, justify="right")
    epochs, bare = results["epochs"], results["bare_forward_seconds"]
    for epoch, alone, memory in zip(epochs, bare, results["resident_set_bytes"], strict=True):
        figures = [f"{epoch[name]:.3f}" for name in columns.values()]
        table.add_row(
            str(epoch["epoch"]),
            *figures,
            f"{alone:.3f}",
            f"{epoch['val_seconds'] / alone:.3f}",
            f"{memory / 1e6:,.0f} MB",
        )
    later = epochs[1:]
    if later:
        waiting = max(epoch["val_data_wait_seconds"] for epoch in later) / epochs[0]["val_data_wait_seconds"]
        ratio = median(epoch["val_seconds"] / alone for epoch, alone in zip(later, bare[1:], strict=True))
        table.caption = (
            f"from epoch 1: data wait at most {waiting:.2%} of epoch 0's; total / bare forward {ratio:.3f} (median)"
        )
    return table


def compare_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Scores and seconds of a checkpoint with each cache setting."""
    config, model = load_checkpoint(arguments.checkpoint)
    device = resolve_device("auto")
    precision = resolve_precision(config.trainer.precision, device)
    pipeline = resolve_pipeline(config.pipeline, precision)
    if arguments.size:
        pipeline = pipeline.model_copy(update={"image_size": arguments.size})
    split = DatasetConfig(
        image_path=str(arguments.data / "images/val"), annotation_path=str(arguments.data / "jsons/val.json")
    )
    dataset = ValidatedOCRDataset(split, SamplePlanner(pipeline, training=False, seed=0), config.targets)
    module = DBNetModule(model, config, dataset.manifest)
    rows: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, cache in _settings(dataset, device, Path(folder)).items():
            loader = _loader(dataset, config, device, cache)
            trainer = _trainer(device, precision)
            rows[name] = [_validate(trainer, module, loader) for _ in range(2)]
            loader.close()
        rows["float16, two processes"] = _validate_in_two_processes(dataset, config, module, precision, Path(folder))
    return {"rows": rows, "images": len(dataset), "precision": precision, "size": pipeline.image_size}


def _settings(dataset: ValidatedOCRDataset, device: torch.device, folder: Path) -> dict[str, CacheConfig | None]:
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
    batch_size = config.dataloader.eval_batch_size
    tiers = None
    if cache is not None:
        dataset.config = dataset.config.model_copy(update={"cache_config": cache})
        layout = entry_layout(dataset, with_targets=True)
        tiers = plan_tiers(layout, len(dataset), batch_size, cache, device, FreeMemory.measured(device))
    return BatchLoader(
        dataset,
        loader=config.engine,
        batch_size=batch_size,
        num_workers=config.dataloader.num_workers,
        device=device,
        with_targets=True,
        tiers=tiers,
    )


def _trainer(device: torch.device, precision: str, num_processes: int = 1) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=num_processes,
        strategy="ddp_spawn" if num_processes > 1 else "auto",
        precision=precision,  # type: ignore[arg-type]
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def _validate(trainer: lightning.Trainer, module: DBNetModule, loader: BatchLoader) -> dict[str, float]:
    """Scores, hits, and where the seconds went."""
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
    """Scores with gloo; the second time from what the first left on disk. On the CPU, also where there is a GPU."""
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


def _settings_table(results: dict[str, Any]) -> Table:
    table = Table(
        title=f"{results['images']} images at {results['size']}, {results['precision']}, {results['device']}",
        caption="second pass, from the cache; the first pass gave the same scores unless marked *",
    )
    for column in ("cache", *SCORES, "hits", "data wait s", "forward s", "total s"):
        table.add_column(column, justify="left" if column == "cache" else "right")
    for name, (first, second) in results["rows"].items():
        mark = "" if all(first[score] == second[score] for score in SCORES) else " *"
        figures = [f"{second[score]:.6f}" for score in SCORES]
        if "hits" in second:
            figures.append(f"{second['hits']}/{second['hits'] + second['misses']}")
            figures += [f"{second[key]:.3f}" for key in ("data_wait_seconds", "forward_seconds", "seconds")]
        table.add_row(name + mark, *figures)
    return table


if __name__ == "__main__":
    main()
