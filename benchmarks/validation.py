"""What a validation epoch costs beside its bare forward pass, and that no cache setting changes its result."""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch

from ocr.cache.budget import FreeMemory, plan_tiers
from ocr.checkpoint import load_checkpoint
from ocr.command_line import compose_config
from ocr.config import TrainConfig
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.plan import SamplePlanner
from ocr.datasets.schemas import CacheConfig, DatasetConfig
from ocr.device import resolve_device, resolve_pipeline, resolve_precision
from ocr.loaders.loader import BatchLoader, entry_layout
from ocr.machine import resident_set
from ocr.training.datamodule import DBNetDataModule
from ocr.training.fit import train
from ocr.training.module import DBNetModule

NUM_IMAGES = 404
SCORES = ("hmean", "precision", "recall")


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


def measure_speed(overrides: Sequence[str]) -> dict[str, Any]:
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
    config = compose_config(TrainConfig, "train", settings)
    bare, memory = BareForward(), ResidentSet()
    with tempfile.TemporaryDirectory() as run_dir:
        summary = train(config, Path(run_dir), callbacks=[bare, memory])
    return {
        "settings": settings,
        "epochs": summary["epochs"],
        "bare_forward_seconds": bare.seconds,
        "resident_set_bytes": memory.num_bytes,
    }


def compare_settings(
    checkpoint: Path, data: Path, size: int | None = None, *, with_two_processes: bool = True
) -> dict[str, Any]:
    """Scores, seconds and bytes of a checkpoint with each cache setting, each evaluated twice.

    Args:
        data: folder with images/val and jsons/val.json.
        size: longest side; None: as the checkpoint was trained.
        with_two_processes: by two processes too, which takes long to start.
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
    rows: dict[str, list[dict[str, float]]] = {}
    num_bytes: dict[str, dict[str, dict[str, int]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, cache in _settings(dataset, device, Path(folder)).items():
            loader = _loader(dataset, config, device, cache)
            trainer = _trainer(device, precision)
            rows[name] = [_validate(trainer, module, loader) for _ in range(2)]
            if loader.cache is not None:
                store = loader.cache.store
                predicted = {"gpu": store.plan.gpu_bytes, "ram": store.plan.ram_bytes}
                num_bytes[name] = {"predicted": predicted, "taken": {tier: store.num_bytes[tier] for tier in predicted}}
            loader.close()
        if with_two_processes:
            rows["float16, two processes"] = _validate_in_two_processes(
                dataset, config, module, precision, Path(folder)
            )
    return {
        "rows": rows,
        "bytes": num_bytes,
        "images": len(dataset),
        "precision": precision,
        "size": pipeline.image_size,
    }


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
