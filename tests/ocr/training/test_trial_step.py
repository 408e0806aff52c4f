import random

import numpy as np
import pytest
import torch

from ocr.config import OptimizerConfig, TrainConfig
from ocr.losses.db_loss import DBLoss
from ocr.memory.plan import NetworkMemory, StepMemory
from ocr.models.dbnet import DBNet, build_dbnet
from ocr.targets.target_maps import TargetMaps
from ocr.training.network import forward_maps, prepare_network
from ocr.training.optimizer import build_optimizer
from ocr.training.trial_step import network_memory, step_memory

CPU = torch.device("cpu")
CONFIG = TrainConfig.model_validate(
    {
        "pipeline": {"image_size": 64},
        "model": {"backbone": {"name": "test_resnet", "weights": None}, "fpn_channels": 16},
        "trainer": {"precision": "32-true"},
    }
)


def make_model() -> DBNet:
    torch.manual_seed(3)
    model = build_dbnet(CONFIG.model, CONFIG.targets.map_stride)
    model.head.prob.append(torch.nn.Dropout(0.1))  # draws from the global random state
    prepare_network(model, CONFIG.trainer)
    return model


def seeded_run(model: DBNet) -> list[torch.Tensor]:
    """Returns the losses of two steps on random images, then weights and BatchNorm statistics, then random numbers."""
    optimizer, loss_function = build_optimizer(model, CONFIG.optimizer), DBLoss(CONFIG.loss)
    losses = []
    for _ in range(2):
        empty = torch.zeros((2, 64, 64))
        targets = TargetMaps(empty, torch.ones_like(empty), empty, empty)
        loss = loss_function(forward_maps(model, torch.rand((2, 3, 64, 64)), True), targets).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return [*losses, *model.state_dict().values(), torch.rand(3)]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_trial_leaves_no_trace(precision):
    expected = seeded_run(make_model())
    model = make_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002  # the global one

    assert step_memory(model, CONFIG, precision, CPU, batch_size=2, eval_batch_size=1) == StepMemory(0, 0)

    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])  # noqa: NPY002
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training
    for ours, theirs in zip(seeded_run(model), expected, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("name", "momentum"), [("adamw", 0.9), ("sgd", 0.9), ("sgd", 0.0)])
def test_persistent_memory_is_counted_as_it_is_allocated(name, momentum):
    model = make_model()
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
    assert counted.optimizer_state == sum(
        value.nbytes for value in states if value.ndim
    )  # without Adam's step counters


def test_ranks_and_a_moving_average_need_memory_of_their_own():
    model, config = make_model(), OptimizerConfig()
    alone, more = network_memory(model, config), network_memory(model, config, num_ranks=2, is_averaged=True)
    assert more == NetworkMemory(2 * alone.weights, 2 * alone.gradients, alone.optimizer_state)
    assert alone.total == alone.weights + alone.gradients + alone.optimizer_state


def test_a_trial_that_runs_out_of_memory_says_so():
    batch_size = 1 << 40  # 48 PiB of images
    assert not step_memory(make_model(), CONFIG, "32-true", CPU, batch_size=batch_size, eval_batch_size=1).was_enough


@pytest.mark.gpu
def test_a_trial_on_the_gpu_takes_more_for_a_larger_batch_and_gives_it_back():
    device = torch.device("cuda", 0)
    model = make_model()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    small, large = (
        step_memory(model, CONFIG, "16-mixed", device, batch_size=size, eval_batch_size=1).training for size in (2, 64)
    )
    assert 0 < small < large
    assert large >= 64 * 3 * 64 * 64 * 2
    assert torch.cuda.memory_allocated(device) - before < 100_000_000  # cuBLAS keeps its workspace
    assert not step_memory(model, CONFIG, "16-mixed", device, batch_size=1 << 30, eval_batch_size=1).was_enough
