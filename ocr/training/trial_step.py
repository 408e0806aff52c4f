"""The memory that a network needs: counted, and on a GPU measured by trial steps of a throw-away copy."""

import copy
import gc

import torch
from torch import nn

from dali_pipelines.allocation_errors import find_failed_allocation
from dali_pipelines.normalize import input_dtype
from ocr.config import OptimizerConfig, TrainConfig
from ocr.device import AUTOCAST, resolve_pipeline
from ocr.losses.db_loss import DBLoss
from ocr.memory.plan import NetworkMemory, StepMemory
from ocr.models.db_head import DBMaps
from ocr.targets.target_maps import TargetMaps
from ocr.training.network import forward_maps
from ocr.training.optimizer import build_optimizer


def measure_network(
    model: nn.Module,
    config: TrainConfig,
    *,
    precision: str,
    device: torch.device,
    batch_sizes: tuple[int, int],
    num_ranks: int,
) -> tuple[NetworkMemory, StepMemory | None]:
    """Returns the memory of a run's network and, on a GPU, the memory of its steps.

    Args:
        precision: Lightning's name of the precision.
        batch_sizes: batch sizes of training and validation.
    """
    is_averaged = config.trainer.ema_decay is not None
    network = network_memory(model, config.optimizer, num_ranks=num_ranks, is_averaged=is_averaged)
    if device.type != "cuda":
        return network, None
    batch_size, eval_batch_size = batch_sizes
    return network, step_memory(
        model, config, precision, device, batch_size=batch_size, eval_batch_size=eval_batch_size
    )


def network_memory(
    model: torch.nn.Module, optimizer: OptimizerConfig, *, num_ranks: int = 1, is_averaged: bool = False
) -> NetworkMemory:
    """Returns the bytes that persist between steps.

    Args:
        is_averaged: whether a moving average of the weights is kept too.
    """
    weights = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    trained = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    num_states = {"adamw": 2, "sgd": int(optimizer.momentum > 0)}[optimizer.name]
    return NetworkMemory(
        weights=2 * weights if is_averaged else weights,
        gradients=trained if num_ranks == 1 else 2 * trained,
        optimizer_state=trained * num_states,
    )


def step_memory(
    model: nn.Module,
    config: TrainConfig,
    precision: str,
    device: torch.device,
    *,
    batch_size: int,
    eval_batch_size: int,
) -> StepMemory:
    """Returns the bytes that steps need in addition to the network, measured on two training steps and a validation step.

    A copy of the network does them, on random images without text, in the run's precision, memory format and batch sizes.
    Weights, BatchNorm statistics and random state stay as they were. cuDNN keeps the run's settings, so that it chooses the
    kernels that it will choose later. The copy is not compiled; a compiled network usually needs less. On a CPU, where PyTorch
    does not count its memory, all numbers are 0.
    """
    is_gpu = device.type == "cuda"
    persistent = _restart_peak(device) + network_memory(model, config.optimizer).total
    was_enough, after_training, left = True, 0, 0
    trial: _Trial | None = None
    try:
        with torch.random.fork_rng([device] if is_gpu else []):
            trial = _Trial(model, config, precision, device)
            for _ in range(2):  # the first creates the optimizer state, beside which the second must fit
                trial.train(batch_size)
            after_training = _peak(device)
            left = _restart_peak(device) if config.trainer.cuda_graphs else after_training
            trial.evaluate(eval_batch_size)
    except RuntimeError as error:
        if find_failed_allocation(error) is None:
            raise
        was_enough = False
    peak, trial = _peak(device), None
    _restart_peak(device)
    after_training, left = after_training or peak, left or peak
    return StepMemory(max(after_training - persistent, 0), peak - left, was_enough)


class _Trial:
    """A copy of the network with an optimizer of its own."""

    def __init__(self, model: nn.Module, config: TrainConfig, precision: str, device: torch.device) -> None:
        self._config, self._device = config, device
        self._pipeline = resolve_pipeline(config.pipeline, precision)
        self._model = copy.deepcopy(model).to(device)
        self._loss = DBLoss(config.loss).to(device)
        self._optimizer = build_optimizer(self._model, config.optimizer)
        self._generator = torch.Generator(device).manual_seed(0)
        self._autocast = AUTOCAST.get(precision)

    def train(self, batch_size: int) -> None:
        self._model.train()
        size = self._pipeline.input_size(training=True)
        images, targets = self._batch(batch_size, size)
        next_batch = self._batch(batch_size, size)  # the loader prepares it during the step
        with torch.enable_grad():
            with self._precision():
                loss = self._loss(self._maps(images), targets).total
            self._optimizer.zero_grad()  # where Lightning does it: the last gradients still exist in the forward pass
            loss.backward()
        clip = self._config.trainer.gradient_clip_val
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), clip)
        self._optimizer.step()
        del next_batch

    def evaluate(self, batch_size: int) -> None:
        self._model.eval()
        images, targets = self._batch(batch_size, self._pipeline.input_size(training=False))
        with torch.inference_mode(), self._precision():
            maps = self._maps(images)
            if self._config.trainer.val_loss:
                self._loss(maps, targets)

    def _maps(self, images: torch.Tensor) -> DBMaps:
        return forward_maps(self._model, images, self._config.trainer.channels_last)

    def _precision(self) -> torch.autocast:
        return torch.autocast(self._device.type, self._autocast, enabled=self._autocast is not None)

    def _batch(self, batch_size: int, size: int) -> tuple[torch.Tensor, TargetMaps]:
        dtype = input_dtype(self._pipeline, self._device.type)
        shape = (batch_size, 3, size, size)
        images = torch.rand(shape, generator=self._generator, device=self._device).to(dtype)
        map_size = size // self._config.targets.map_stride
        empty = torch.zeros((batch_size, map_size, map_size), device=self._device)
        return images, TargetMaps(empty, torch.ones_like(empty), torch.zeros_like(empty), torch.zeros_like(empty))


def _restart_peak(device: torch.device) -> int:
    """Frees PyTorch's unused memory, restarts its peak counter and returns the bytes it still holds."""
    if device.type != "cuda":
        return 0
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_reserved(device)


def _peak(device: torch.device) -> int:
    """Returns the most bytes that PyTorch has held since `_restart_peak`, unused parts of its blocks included."""
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else 0
