"""Resuming a run: what its checkpoint says, and whether it is the same run."""

import hashlib
import logging
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, Field, NonNegativeInt, ValidationError

from dali_pipelines.config import AUTO
from ocr.checkpoint import PRECISION_KEY, read_checkpoint, refuse_broken, saved_config
from ocr.config import OptimizerConfig, TrainConfig, described_problems, flat_keys, nested
from ocr.datasets.manifest import Manifest
from ocr.errors import InputError
from ocr.given_files import resumed_path
from ocr.training.callbacks.early_stopping import has_stopped
from ocr.training.initial_network import with_network_of_file
from ocr.training.optimizer import learning_rate_factor
from ocr.training.ranks import is_first_rank
from ocr.training.run_folder import newest_checkpoint

log = logging.getLogger(__name__)

SAME = (
    "init_from",
    "seed",
    "metric",
    "pipeline",
    "targets",
    "model",
    "loss",
    "optimizer",
    "postprocess",
    "dataloader.batch_size",
    "dataloader.shuffle_block",
    "trainer.limit_train_batches",
    "trainer.limit_val_batches",
    "trainer.accumulate_grad_batches",
    "trainer.gradient_clip_val",
    "trainer.ema_decay",
)
"""Keys and sections that make a run what it is. The data are compared by their content, not by their paths."""
FREE = (
    "pipeline.max_batch_megapixels",
    "pipeline.num_threads",
    "pipeline.prefetch_queue_depth",
    "pipeline.hw_decoder_load",
    "pipeline.preallocate_decoder",
    "postprocess.num_workers",
    "postprocess.max_pending",
    "model.backbone.weights",
)
"""Keys inside `SAME` that change speed or memory only, or that a resumed run does not use."""
UNFIT = ("model", "optimizer.name", "optimizer.layer_decay")
"""Keys and sections without which the state in the checkpoint fits nothing."""
FITTING = ("model.head_float32", "model.batch_norm", "model.batch_norm_momentum")
"""Keys inside `UNFIT` that change no tensor of the network and no group of the optimizer."""
DATA_MODULE = "DBNetDataModule"
"""Lightning's key of the data module's state."""


@dataclass(frozen=True)
class Resumption:
    """The configuration of a run, and the state that it continues from."""

    config: TrainConfig
    first_step: int = 0
    """Steps done in the run's own folder before; 0 in a new folder."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """Fingerprint of each split of the checkpoint; empty without one."""
    precision: Mapping[str, str] = field(default_factory=dict)
    """Type of device and precision of the checkpoint's run; empty without one."""
    finished: dict[str, Any] | None = None
    """Summary of a run that has nothing left to do; None: this one has."""

    def check_data(self, manifests: Mapping[str, Manifest]) -> None:
        """Compares the audited splits with those of the checkpoint.

        Raises:
            InputError: they hold other images or annotations, and resume_anyway is off.
        """
        different = []
        for name, manifest in manifests.items():
            saved = self.data.get(name)
            if saved is not None and saved != (found := data_fingerprint(manifest)):
                what = "other images" if saved["images"] == found["images"] else f"{found['images']} images"
                different.append(f"{name} data: {saved['images']} images in the checkpoint, {what} found")
        _refuse(self.config, different, "give the data set of the run")

    def check_precision(self, device_type: str, precision: str) -> None:
        """Compares the precision of this run with that of the checkpoint's, if both run on the same type of device.

        Raises:
            InputError: they differ, and resume_anyway is off.
        """
        saved = self.precision.get("precision", precision)
        if saved != precision and self.precision["device_type"] == device_type:
            difference = f"trainer.precision: {saved} in the checkpoint, {precision} given"
            _refuse(self.config, [difference], "leave this setting out")


def resumption(config: TrainConfig, given: Collection[str] | None, run_dir: Path) -> Resumption:
    """Returns what a run starts from: the configuration as it is, or with a checkpoint's settings where nothing is given.

    Args:
        given: keys that the user set, written with dots; None: all.
        run_dir: the run's folder, where resume=auto looks.

    Raises:
        FileNotFoundError: no such checkpoint.
        InputError: not a checkpoint to resume from, or one of a run with other settings.
    """
    path = _checkpoint(config, run_dir)
    if path is None:
        return Resumption(with_network_of_file(config.model_copy(update={"resume": None}), given))
    checkpoint = read_checkpoint(path, "resume")
    weights = checkpoint.get("state_dict")
    if not isinstance(weights, dict):
        raise InputError(f"resume={path}: found no weights; give last.ckpt of a run")
    if not isinstance(checkpoint.get("loops"), dict) or "optimizer_states" not in checkpoint:
        raise InputError(f"resume={path}: found weights without the state of a training; give last.ckpt of a run")
    state = _state(checkpoint, path)
    refuse_broken(weights, path, "resume")
    saved = saved_config(checkpoint, path, "resume")
    config = _with_saved(_with_saved_size(config.model_copy(update={"resume": str(path)}), saved), saved, given)
    _refuse(config, _differences(config, saved), "leave these settings out")
    processed = state.loops.fit_loop.epoch_progress.current.processed
    _log_schedule(config, saved, processed)
    in_own_folder = path.resolve().is_relative_to(run_dir.resolve())
    return Resumption(
        config,
        first_step=state.global_step if in_own_folder else 0,
        data=state.data_module.model_dump()["data"],
        precision=state.precision,
        finished=_finished(config, path, processed, state.callbacks),
    )


class _Done(BaseModel):
    processed: NonNegativeInt


class _Epochs(BaseModel):
    current: _Done


class _FitLoop(BaseModel):
    epoch_progress: _Epochs


class _Loops(BaseModel):
    fit_loop: _FitLoop


class _Split(BaseModel):
    images: int
    sha256: str


class _DataModule(BaseModel):
    data: dict[str, _Split] = {}


class _State(BaseModel):
    """The values in a checkpoint that decide how a run goes on. Lightning restores the others."""

    loops: _Loops
    global_step: NonNegativeInt
    callbacks: dict[str, dict[str, Any]]
    data_module: _DataModule = Field(_DataModule(), alias=DATA_MODULE)
    precision: dict[str, str] = Field({}, alias=PRECISION_KEY)


def _state(checkpoint: Mapping[str, Any], path: Path) -> _State:
    try:
        return _State.model_validate(checkpoint)
    except ValidationError as error:
        problems = "; ".join(described_problems(error)[:3])
        raise InputError(
            f"resume={path}: not the state of a training of this version: {problems}; give last.ckpt of a run"
        ) from error


def _log_schedule(config: TrainConfig, saved: TrainConfig, num_epochs: int) -> None:
    """Logs that another number of epochs changes the learning rates of the epochs that are left, where a schedule decays them.

    Args:
        num_epochs: epochs trained so far.
    """
    own, earlier = config.trainer.max_epochs, saved.trainer.max_epochs
    if own == earlier or own <= num_epochs or config.optimizer.schedule == "constant" or not is_first_rank():
        return
    now, planned = (
        config.optimizer.lr * learning_rate_factor(num_epochs, epochs, config.optimizer) for epochs in (own, earlier)
    )
    log.warning(
        "resume=%s: trainer.max_epochs=%d, but the run so far was one of %d epochs. The learning rate goes on as in a run of %d "
        "epochs: %.3g at epoch %d, not %.3g",
        *(config.resume, own, earlier, own, now, num_epochs + 1, planned),
    )


def _checkpoint(config: TrainConfig, run_dir: Path) -> Path | None:
    if config.resume != "auto":
        return resumed_path(config.resume) if config.resume is not None else None
    path = newest_checkpoint(run_dir)
    if is_first_rank():
        if path is None:
            log.info("resume=auto: %s has no checkpoint yet; the run starts from the beginning", run_dir)
        else:
            log.info("resume=auto: %s", path)
    return path


def _with_saved_size(config: TrainConfig, saved: TrainConfig) -> TrainConfig:
    """Returns the configuration with the checkpoint's number for pipeline.image_size=auto."""
    if config.pipeline.image_size != AUTO:
        return config
    pipeline = config.pipeline.model_copy(update={"image_size": saved.pipeline.image_size})
    return config.model_copy(update={"pipeline": pipeline})


def _with_saved(config: TrainConfig, saved: TrainConfig, given: Collection[str] | None) -> TrainConfig:
    """Returns the configuration with the checkpoint's values for keys that are not given."""
    if given is None:
        return config
    own = flat_keys(config.model_dump(mode="json"))
    kept = {*given, "resume", "resume_anyway"}
    values = flat_keys(saved.model_dump(mode="json")) | {key: value for key, value in own.items() if key in kept}
    try:
        return TrainConfig.model_validate(nested(values))
    except ValidationError as error:
        problems = "; ".join(described_problems(error))
        raise InputError(
            f"resume={config.resume}: its settings and those given contradict each other: {problems}; leave out those given"
        ) from error


def _differences(config: TrainConfig, saved: TrainConfig) -> list[str]:
    own, others = (flat_keys(one.model_dump(mode="json")) for one in (config, saved))
    different = [key for key in own if _is_in(key, SAME) and not _is_in(key, FREE) and own[key] != others.get(key)]
    unfit = [key for key in different if _is_in(key, UNFIT) and key not in FITTING]
    auxiliary = "loss.auxiliary_weight"
    if auxiliary in different and 0 in (own[auxiliary], others[auxiliary]):  # one of the networks has no auxiliary head
        unfit.append(auxiliary)
    if unfit:
        raise InputError(
            f"resume={config.resume}: its state does not fit another network or optimizer: "
            + "; ".join(_compared(key, own, others) for key in unfit)
            + "; leave these settings out, or train a new run without resume"
        )
    return [_compared(key, own, others) for key in different]


def _compared(key: str, own: Mapping[str, Any], others: Mapping[str, Any]) -> str:
    return f"{key}: {others.get(key)} in the checkpoint, {own[key]} given"


def _is_in(key: str, sections: tuple[str, ...]) -> bool:
    return any(key == section or key.startswith(f"{section}.") for section in sections)


def _refuse(config: TrainConfig, differences: list[str], advice: str) -> None:
    """Raises an InputError that lists the differences; with resume_anyway it only logs them."""
    if not differences:
        return
    listed = "\n".join(f"  {line}" for line in differences)
    if not config.resume_anyway:
        raise InputError(
            f"resume={config.resume}: this is another run than that of the checkpoint:\n{listed}\n"
            f"To continue that run, {advice}. resume_anyway=true continues with these differences"
        )
    if is_first_rank():
        log.warning("resume=%s continues another run than that of the checkpoint:\n%s", config.resume, listed)


def _finished(config: TrainConfig, path: Path, num_epochs: int, callbacks: Mapping[str, Any]) -> dict[str, Any] | None:
    stopping = config.trainer.early_stopping
    is_stopped = has_stopped(callbacks, stopping)
    if num_epochs < config.trainer.max_epochs and not is_stopped:
        return None
    if is_first_rank():
        key, value = (
            ("early_stopping.patience", stopping.patience) if is_stopped else ("max_epochs", config.trainer.max_epochs)
        )
        log.info(
            "resume=%s: this run is finished: epochs trained %d, trainer.%s=%d. Nothing is changed; a larger trainer.%s trains "
            "longer",
            *(path, num_epochs, key, value, key),
        )
    return callbacks.get("RunSummary", {}).get("summary", {})


def data_fingerprint(manifest: Manifest) -> dict[str, Any]:
    """Returns the number of usable images of a split, and a digest of their names, sizes and annotations."""
    digest = hashlib.sha256()
    for place, name in enumerate(manifest.filenames):
        digest.update(f"{chr(0) if place else ''}{name}".encode(errors="surrogatepass"))
    polygons = manifest.polygons
    for array in (
        manifest.sample_ids,
        manifest.stored_sizes,
        manifest.orientations,
        polygons.vertices,
        polygons.vertex_starts,
        polygons.polygon_starts,
        polygons.ignore,
    ):
        digest.update(np.ascontiguousarray(array).data)
    return {"images": len(manifest), "sha256": digest.hexdigest()}


def steps_of_resumed_epoch(num_samples: int, num_done: int, batch_size: int, num_ranks: int) -> tuple[int, int]:
    """Returns the steps of an epoch that count as done, and all its steps.

    They are counted back from the epoch's end, as ocr/loaders/loader.py does: with other ranks or batches than before, the samples
    done need not be whole steps.

    Args:
        num_done: samples trained before, over all ranks.
    """
    all_steps = math.ceil(math.ceil(num_samples / num_ranks) / batch_size)
    left = math.ceil(math.ceil((num_samples - num_done) / num_ranks) / batch_size)
    return all_steps - left, all_steps


def check_optimizer_state(checkpoint: Mapping[str, Any], optimizer: torch.optim.Optimizer, path: str | None) -> None:
    """Raises InputError if the optimizer of a checkpoint has other groups of parameters than this one."""
    try:
        found = [len(group["params"]) for group in checkpoint["optimizer_states"][0]["param_groups"]]
    except (LookupError, TypeError):
        found = []
    expected = [len(group["params"]) for group in optimizer.param_groups]
    if found != expected:
        raise InputError(
            f"resume={path}: found the state of an optimizer of {sum(found)} parameters in {len(found)} groups; expected "
            f"{sum(expected)} in {len(expected)}; give another checkpoint, or start a new run with init_from={path}"
        )


def use_given_optimizer(checkpoint: dict[str, Any], config: OptimizerConfig) -> None:
    """Puts learning rate, weight decay and momentum of the configuration into a checkpoint's state, where they differ.

    Lightning restores the whole state of optimizer and schedule, which would silently undo settings given with resume_anyway.
    """
    schedule, groups = checkpoint["lr_schedulers"][0], checkpoint["optimizer_states"][0]["param_groups"]
    rates = [config.lr * group.get("lr_scale", 1.0) for group in groups]
    factor = rates[0] / schedule["base_lrs"][0]
    if factor != 1:
        schedule["base_lrs"] = rates
        schedule["_last_lr"] = [lr * factor for lr in schedule["_last_lr"]]
    for number, group in enumerate(groups):
        if factor != 1:
            group["initial_lr"], group["lr"] = rates[number], group["lr"] * factor
        if number % 2 == 0:  # every second group has none, see build_optimizer
            group["weight_decay"] = config.weight_decay
        if "momentum" in group:
            group["momentum"] = config.momentum
