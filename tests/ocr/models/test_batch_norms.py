import pytest
import torch
from torch import nn

from ocr.models.batch_norms import freeze_statistics, set_momentum
from ocr.models.config import BackboneConfig, ModelConfig
from ocr.models.dbnet import DBNet, add_auxiliary_head, build_dbnet
from ocr.models.stages import freeze

CONFIG = ModelConfig(
    backbone=BackboneConfig(name="mobilenetv3_small_050", weights=None), fpn_channels=16, fpn_kernel_size=5
)


def network() -> DBNet:
    """Returns a network whose batch norms have seen images."""
    torch.manual_seed(0)
    model = build_dbnet(CONFIG, map_stride=4)
    for _ in range(2):
        model(torch.randn(2, 3, 64, 64))
    return model


def statistics(model: nn.Module) -> dict[str, torch.Tensor]:
    names = ("running_mean", "running_var", "num_batches_tracked")
    return {name: tensor.clone() for name, tensor in model.state_dict().items() if name.endswith(names)}


@pytest.mark.parametrize(
    ("which", "kept"),
    [("batch", ()), ("frozen_backbone", ("backbone.",)), ("frozen", ("backbone.", "fpn.", "head."))],
)
def test_frozen_batch_norms_keep_their_statistics_and_all_else_is_trained(which, kept):
    model = network()
    freeze_statistics(model, which)
    before = statistics(model)
    for _ in range(2):
        model.eval()
        model.train()
        model(torch.randn(2, 3, 64, 64)).prob_map.sum().backward()
    for name, tensor in statistics(model).items():
        assert torch.equal(tensor, before[name]) == name.startswith(kept), name
    assert all(parameter.requires_grad for parameter in model.parameters())
    norms = [module for module in model.fpn.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(norm.weight.grad.any() for norm in norms)


def test_a_frozen_network_gives_an_image_the_same_maps_in_training_whatever_else_is_in_the_batch():
    model, images = network(), torch.randn(3, 3, 64, 64)
    freeze_statistics(model, "frozen")
    maps = model(images)
    torch.testing.assert_close(model(images[:1]).prob_logits, maps.prob_logits[:1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.eval()(images).prob_logits, maps.prob_logits, rtol=1e-4, atol=1e-4)


def test_frozen_statistics_join_the_frozen_layers_but_not_an_auxiliary_head():
    model = network()
    freeze(model, "stages:1")
    freeze_statistics(model, "frozen")
    add_auxiliary_head(model, CONFIG, map_stride=4)
    model.train()
    trained = [name for name, layer in model.named_modules() if isinstance(layer, nn.BatchNorm2d) and layer.training]
    assert trained
    assert all(name.startswith("auxiliary.") for name in trained)
    assert not model.backbone.conv_stem.training


def test_the_momentum_is_the_share_of_a_batch_in_the_running_statistics():
    model, images = network(), torch.randn(2, 3, 64, 64)
    set_momentum(model, 0.25)
    before = model.backbone.bn1.running_mean.clone()
    with torch.no_grad():
        of_batch = model.backbone.conv_stem(images).mean((0, 2, 3))
        model(images)
    torch.testing.assert_close(model.backbone.bn1.running_mean, 0.75 * before + 0.25 * of_batch)
    assert {layer.momentum for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)} == {0.25}
