"""What the network takes: counted, and on a GPU measured by a trial on a throw-away copy."""

import copy
import gc

import torch

from dali_pipelines.allocation_errors import find_failed_allocation
from ocr.config import OptimizerConfig
from ocr.device import AUTOCAST, resolve_pipeline
from ocr.memory.network import NetworkMemory, StepMemory
from ocr.targets import TargetMaps
from ocr.training.module import DBNetModule
from ocr.training.optimizer import build_optimizer


def network_memory(
    model: torch.nn.Module, optimizer: OptimizerConfig, *, num_ranks: int = 1, is_averaged: bool = False
) -> NetworkMemory:
    """What lasts from step to step, counted.

    Args:
        is_averaged: a moving average of the weights is kept too.
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
    module: DBNetModule, precision: str, device: torch.device, *, batch_size: int, eval_batch_size: int
) -> StepMemory:
    """What a training and a validation step take beside the network: two of the one and one of the other are done.

    They are done by a copy, with random images and no text, in the run's precision, memory format and batch sizes. The weights,
    BatchNorm's statistics and the random state are afterwards what they were. cuDNN's settings are left as the run has them, so
    it chooses what it would choose later. The copy is not compiled; a compiled network takes less as a rule. On a CPU, which
    does not count its memory, all numbers are 0.
    """
    is_gpu = device.type == "cuda"
    lasting = _restart_peak(device) + network_memory(module.model, module.config.optimizer).total
    was_enough, after_training, left = True, 0, 0
    trial: _Trial | None = None
    try:
        with torch.random.fork_rng([device] if is_gpu else []):
            trial = _Trial(module, precision, device)
            for _ in range(2):  # the first makes the optimizer's state, beside which the second must fit
                trial.train(batch_size)
            after_training = _peak(device)
            left = _restart_peak(device) if module.config.trainer.cuda_graphs else after_training
            trial.evaluate(eval_batch_size)
    except RuntimeError as error:
        if find_failed_allocation(error) is None:
            raise
        was_enough = False
    peak, trial = _peak(device), None
    _restart_peak(device)
    after_training, left = after_training or peak, left or peak
    return StepMemory(max(after_training - lasting, 0), peak - left, was_enough)


class _Trial:
    """A copy of the network, with an optimizer of its own."""

    def __init__(self, module: DBNetModule, precision: str, device: torch.device) -> None:
        self.device = device
        config = module.config
        self.config = config.model_copy(
            update={
                "trainer": config.trainer.model_copy(update={"compile": False}),
                "pipeline": resolve_pipeline(config.pipeline, precision),
            }
        )
        self.module = DBNetModule(copy.deepcopy(module.model), self.config, module.manifest).to(device)
        self._optimizer = build_optimizer(self.module.model, config.optimizer)
        self._generator = torch.Generator(device).manual_seed(0)
        self._autocast = AUTOCAST.get(precision)

    def train(self, batch_size: int) -> None:
        self.module.train()
        size = self.config.pipeline.input_size(training=True)
        images, targets = self._batch(batch_size, size)
        following = self._batch(batch_size, size)  # the loader makes the next batch while this one is held
        with torch.enable_grad():
            with self._precision():
                loss = self.module.loss(self.module(images), targets).total
            self._optimizer.zero_grad()  # here, as Lightning does: the last step's gradients are there in the forward pass
            loss.backward()
        clip = self.config.trainer.gradient_clip_val
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(self.module.parameters(), clip)
        self._optimizer.step()
        del following

    def evaluate(self, batch_size: int) -> None:
        self.module.eval()
        images, targets = self._batch(batch_size, self.config.pipeline.input_size(training=False))
        with torch.inference_mode(), self._precision():
            maps = self.module(images)
            if self.config.trainer.val_loss:
                self.module.loss(maps, targets)

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, self._autocast, enabled=self._autocast is not None)

    def _batch(self, batch_size: int, size: int) -> tuple[torch.Tensor, TargetMaps]:
        dtype = torch.float16 if self.config.pipeline.wants_float16(self.device.type) else torch.float32
        shape = (batch_size, 3, size, size)
        images = torch.rand(shape, generator=self._generator, device=self.device).to(dtype)
        map_size = size // self.config.targets.map_stride
        empty = torch.zeros((batch_size, map_size, map_size), device=self.device)
        return images, TargetMaps(empty, torch.ones_like(empty), torch.zeros_like(empty), torch.zeros_like(empty))


def _restart_peak(device: torch.device) -> int:
    """Bytes that torch holds, once it has given back what is not used; from here on the peak is counted anew."""
    if device.type != "cuda":
        return 0
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_reserved(device)


def _peak(device: torch.device) -> int:
    """The most that torch has held since, in blocks it fills only in part too."""
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else 0
