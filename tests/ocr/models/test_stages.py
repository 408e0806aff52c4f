import pytest
import torch
from torch import nn

from ocr.config import OptimizerConfig
from ocr.models.config import BackboneConfig, ModelConfig
from ocr.models.dbnet import DBNet, build_dbnet
from ocr.models.stages import freeze, stages_of
from ocr.training.optimizer import build_optimizer, build_schedule


def network(name: str = "resnet18") -> DBNet:
    torch.manual_seed(0)
    return build_dbnet(ModelConfig(backbone=BackboneConfig(name=name, weights=None), fpn_channels=16), map_stride=4)


def test_the_stages_of_a_resnet_are_its_layers():
    stages = stages_of(network().backbone)
    assert {stages[name] for name in ("conv1.weight", "bn1.bias", "layer1.0.conv1.weight")} == {1}
    assert [stages[f"layer{number}.1.bn2.weight"] for number in (1, 2, 3, 4)] == [1, 2, 3, 4]


def test_finding_the_stages_changes_neither_weights_nor_statistics_nor_modes():
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    stages_of(model.backbone)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050"])
@pytest.mark.parametrize("what", ["backbone", "stages:2"])
def test_frozen_layers_stay_in_evaluation_mode_whatever_train_is_called(name, what):
    model = network(name)
    freeze(model, what)
    for _ in range(2):
        model.train()
        frozen = [
            layer for layer in model.backbone.modules() if isinstance(layer, nn.BatchNorm2d) and not layer.training
        ]
        assert frozen
        assert all(not parameter.requires_grad for layer in frozen for parameter in layer.parameters())
        model.eval()
    model.train()
    assert model.fpn.training
    assert model.head.training
    if what == "backbone":
        assert not any(parameter.requires_grad for parameter in model.backbone.parameters())
        assert not any(module.training for module in model.backbone.modules())


def test_a_frozen_batch_norm_keeps_its_statistics_in_a_training_step():
    model = network()
    freeze(model, "stages:1")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    model(torch.randn(2, 3, 64, 64)).prob_map.sum().backward()
    after = model.state_dict()
    assert torch.equal(after["backbone.bn1.running_mean"], before["backbone.bn1.running_mean"])
    assert torch.equal(after["backbone.bn1.num_batches_tracked"], before["backbone.bn1.num_batches_tracked"])
    assert not torch.equal(after["backbone.layer2.0.bn1.running_mean"], before["backbone.layer2.0.bn1.running_mean"])


def test_only_what_is_trained_reaches_the_optimizer():
    model = network()
    freeze(model, "stages:3")
    groups = build_optimizer(model, OptimizerConfig()).param_groups
    held = {id(parameter) for group in groups for parameter in group["params"]}
    trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert held == trained
    assert len(trained) < len(list(model.parameters()))


def test_the_learning_rate_decays_by_depth_and_follows_the_schedule():
    model, config = network(), OptimizerConfig(lr=0.1, layer_decay=0.5, warmup_fraction=0, schedule="constant")
    optimizer = build_optimizer(model, config)
    build_schedule(optimizer, 10, config)
    rates = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    named = dict(model.named_parameters())
    assert len(rates) == len(named)
    expected = {"backbone.conv1.weight": 0.1 / 16, "backbone.layer1.0.conv1.weight": 0.1 / 16}
    expected |= {"backbone.layer4.0.bn1.bias": 0.1 / 2, "fpn.lateral.0.0.weight": 0.1, "head.prob.0.0.weight": 0.1}
    assert {name: rates[id(named[name])] for name in expected} == pytest.approx(expected)
    decays = [group["weight_decay"] for group in optimizer.param_groups]
    assert decays == [config.weight_decay, 0.0] * 5


def test_layer_decay_skips_frozen_depths():
    model = network()
    freeze(model, "stages:3")
    groups = build_optimizer(model, OptimizerConfig(layer_decay=0.5)).param_groups
    assert [group["lr_scale"] for group in groups] == [0.5, 0.5, 1.0, 1.0]
