import random

import numpy as np
import pytest
import torch

from ocr.config import OptimizerConfig, TrainConfig
from ocr.datasets.manifest import Manifest
from ocr.models.dbnet import build_dbnet
from ocr.polygons import PolygonBatch
from ocr.targets import TargetMaps
from ocr.training.module import DBNetModule
from ocr.training.optimizer import build_optimizer
from ocr.training.trial_step import NetworkMemory, StepMemory, network_memory, step_memory

CPU = torch.device("cpu")
NO_IMAGES = Manifest(
    image_paths=(),
    filenames=(),
    sample_ids=np.zeros(0, np.int64),
    stored_sizes=np.zeros((0, 2), np.int32),
    orientations=np.zeros(0, np.uint8),
    polygons=PolygonBatch.from_lists([]),
    num_listed=0,
)


def make_module(**trainer) -> DBNetModule:
    config = TrainConfig.model_validate(
        {
            "pipeline": {"image_size": 64},
            "model": {"backbone": {"name": "mobilenetv3_small_050", "weights": None}, "fpn_channels": 16},
            "trainer": {"precision": "32-true"} | trainer,
        }
    )
    torch.manual_seed(3)
    model = build_dbnet(config.model, config.targets.map_stride)
    model.head.prob.append(torch.nn.Dropout(0.1))  # draws from the global random state
    return DBNetModule(model, config, NO_IMAGES)


def seeded_run(module: DBNetModule) -> list[torch.Tensor]:
    """Weights, statistics and losses of two steps with random images, after which comes a random number."""
    optimizer = build_optimizer(module.model, module.config.optimizer)
    losses = []
    for _ in range(2):
        empty = torch.zeros((2, 64, 64))
        targets = TargetMaps(empty, torch.ones_like(empty), empty, empty)
        loss = module.loss(module(torch.rand((2, 3, 64, 64))), targets).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return [*losses, *module.state_dict().values(), torch.rand(3)]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_trial_leaves_no_trace(precision):
    expected = seeded_run(make_module())
    module = make_module()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002  # the global one

    assert step_memory(module, precision, CPU, batch_size=2, eval_batch_size=1) == StepMemory(0, 0)

    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])  # noqa: NPY002
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in module.parameters())
    assert module.training
    for ours, theirs in zip(seeded_run(module), expected, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("name", "momentum"), [("adamw", 0.9), ("sgd", 0.9), ("sgd", 0.0)])
def test_what_lasts_is_counted_as_it_is_allocated(name, momentum):
    module = make_module()
    model = module.model
    config = OptimizerConfig(name=name, momentum=momentum)
    optimizer = build_optimizer(model, config)
    model(torch.rand((1, 3, 64, 64))).prob_map.sum().backward()
    for parameter in model.parameters():  # those of the other branch too
        parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    optimizer.step()
    counted = network_memory(model, config)
    assert counted.weights == sum(tensor.nbytes for tensor in model.state_dict().values())
    assert counted.gradients == sum(parameter.grad.nbytes for parameter in model.parameters())
    states = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    assert counted.optimizer_state == sum(value.nbytes for value in states if value.ndim)  # Adam's step counters aside


def test_ranks_and_a_moving_average_take_their_part():
    model, config = make_module().model, OptimizerConfig()
    alone, more = network_memory(model, config), network_memory(model, config, num_ranks=2, is_averaged=True)
    assert more == NetworkMemory(2 * alone.weights, 2 * alone.gradients, alone.optimizer_state)
    assert alone.total == alone.weights + alone.gradients + alone.optimizer_state


def test_a_trial_that_runs_out_of_memory_says_so():
    batch_size = 1 << 40  # 48 PiB of images
    assert not step_memory(make_module(), "32-true", CPU, batch_size=batch_size, eval_batch_size=1).was_enough


@pytest.mark.gpu
def test_a_trial_on_the_gpu_takes_more_for_a_larger_batch_and_gives_it_back():
    device = torch.device("cuda", 0)
    module = make_module()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    small, large = (
        step_memory(module, "16-mixed", device, batch_size=size, eval_batch_size=1).training for size in (2, 64)
    )
    assert 0 < small < large
    assert large >= 64 * 3 * 64 * 64 * 2
    assert torch.cuda.memory_allocated(device) - before < 100_000_000  # cuBLAS keeps its workspace
    assert not step_memory(module, "16-mixed", device, batch_size=1 << 30, eval_batch_size=1).was_enough
