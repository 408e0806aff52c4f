import pytest
import torch
from torch import nn

from ocr.config import OptimizerConfig
from ocr.training.optimizer import build_optimizer, learning_rate_factor


def test_warm_up_rises_linearly_to_the_peak():
    config = OptimizerConfig(warmup_fraction=0.1)
    assert [learning_rate_factor(step, 50, config) for step in range(6)] == pytest.approx(
        [0.2, 0.4, 0.6, 0.8, 1.0, 1.0]
    )


@pytest.mark.parametrize(("schedule", "halfway"), [("cosine", 0.5), ("poly", 0.5**0.9), ("constant", 1.0)])
def test_schedules_at_half_of_the_steps_after_the_warm_up(schedule, halfway):
    config = OptimizerConfig(schedule=schedule, warmup_fraction=0.2)
    assert learning_rate_factor(60, 100, config) == pytest.approx(halfway)


def test_the_exponent_of_the_poly_schedule_can_be_set():
    config = OptimizerConfig(schedule="poly", poly_power=2, warmup_fraction=0)
    assert learning_rate_factor(75, 100, config) == pytest.approx(0.25**2)


@pytest.mark.parametrize("schedule", ["cosine", "poly"])
def test_decaying_schedules_end_near_zero_and_stay_there(schedule):
    for step in (1000, 1001, 3000):
        assert learning_rate_factor(step, 1000, OptimizerConfig(schedule=schedule)) == pytest.approx(0, abs=1e-9)


def test_a_run_of_one_step_may_be_all_warm_up():
    config = OptimizerConfig(warmup_fraction=0.6)
    assert [learning_rate_factor(step, 1, config) for step in (0, 1)] == [1, 1]


def test_sgd_has_the_momentum_of_the_settings():
    for group in build_optimizer(nn.Linear(2, 2), OptimizerConfig(name="sgd", momentum=0.3)).param_groups:
        assert group["momentum"] == 0.3


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_norms_and_biases_have_no_weight_decay(name):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    decayed, free = build_optimizer(model, OptimizerConfig(name=name, weight_decay=0.1)).param_groups
    assert [p.ndim for p in decayed["params"]] == [4]
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    assert len(free["params"]) == 3
    assert isinstance(
        build_optimizer(model, OptimizerConfig(name=name)), torch.optim.SGD if name == "sgd" else torch.optim.AdamW
    )
