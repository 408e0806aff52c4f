"""The network for inference against the one it was made of."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ocr.models.config import BackboneConfig, ModelConfig
from ocr.models.db_head import DBHead
from ocr.models.dbnet import DBNet, build_dbnet
from ocr.models.fpn import FPN
from ocr.models.inference import InferenceNet, for_inference

CHANNELS = [8, 8, 8, 8]


def network(name: str = "mobilenetv3_small_050", map_stride: int = 4, **settings) -> DBNet:
    """Returns a network whose batch norms have seen images."""
    torch.manual_seed(0)
    config = ModelConfig(backbone=BackboneConfig(name=name, weights=None), fpn_channels=16, **settings)
    return seen(build_dbnet(config, map_stride))


def seen(model: DBNet) -> DBNet:
    for _ in range(3):
        model(torch.randn(2, 3, 64, 96))
    return model.eval()


def norms_of(net: nn.Module) -> list[str]:
    return [name for name, layer in net.named_modules() if isinstance(layer, _BatchNorm)]


@torch.no_grad()
def assert_same_maps(model: DBNet, net: InferenceNet) -> None:
    images = torch.randn(2, 3, 96, 64)
    expected = model(images)
    assert expected.prob_logits.std() > 1e-3
    torch.testing.assert_close(net.logits(images), expected.prob_logits, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(net(images).prob_map, expected.prob_map, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "mobilenetv2_100",
        "mobilenetv3_small_050",
        "efficientnet_lite0",
        "tf_efficientnet_lite0",
        "resnet18",
        "ghostnet_100",
    ],
)
def test_no_batch_norm_is_left_behind_the_convolutions_of_usual_backbones(name):
    model = network(name)
    names = list(model.state_dict())
    net = for_inference(model)
    assert norms_of(net) == []
    assert_same_maps(model, net)
    assert list(model.state_dict()) == names


@pytest.mark.parametrize(
    "name", ["resnetv2_18", "resnetv2_50", "convnext_atto", "densenet121", "nf_resnet26", "repvgg_a0"]
)
def test_unusual_backbones_keep_their_maps(name):
    model = network(name)
    assert_same_maps(model, for_inference(model))


@pytest.mark.parametrize("map_stride", [1, 2, 4])
@pytest.mark.parametrize("settings", [{}, {"fpn_kernel_size": 7}, {"adaptive_fusion": True}, {"head_float32": False}])
def test_neck_and_head_have_no_batch_norms_and_no_parts_of_training(settings, map_stride):
    model = network(map_stride=map_stride, **settings)
    net = for_inference(model)
    assert norms_of(net) == []
    assert not any(name.startswith("head.thresh") for name in net.state_dict())
    kernel_size = settings.get("fpn_kernel_size", 3)
    smoothing = [layer for layer in net.fpn.smooth.modules() if isinstance(layer, nn.Conv2d)]
    assert [conv.kernel_size[0] for conv in smoothing] == ([3] if kernel_size == 3 else [kernel_size, 1]) * 4
    assert_same_maps(model, net)


class _Backbone(nn.Module):
    """Four convolutions, each with a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3 if not level else 8, 8, 3, padding=1) for level in range(4))
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(4))

    def forward(self, images: Tensor) -> list[Tensor]:
        features, levels = F.avg_pool2d(images, 4), []
        for level, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            features = self.normalised(conv(features if not level else F.avg_pool2d(features, 2)), norm)
            levels.append(features)
        return levels

    def normalised(self, features: Tensor, norm: nn.Module) -> Tensor:
        return norm(features)


class _ReadsTwice(_Backbone):
    def normalised(self, features: Tensor, norm: nn.Module) -> Tensor:
        return norm(features) + features


class _SharesNorm(_Backbone):
    def normalised(self, features: Tensor, norm: nn.Module) -> Tensor:
        return self.norms[0](features)


@pytest.mark.parametrize(
    ("backbone", "num_left"),
    [(_Backbone, 0), (_ReadsTwice, 4), (_SharesNorm, 4)],
    ids=["plain", "reads twice", "shares norm"],
)
def test_a_batch_norm_stays_where_folding_would_change_the_maps(backbone, num_left):
    torch.manual_seed(0)
    model = seen(DBNet(backbone(), FPN(CHANNELS, 16, 3, False), DBHead(16, 4, True)))
    net = for_inference(model)
    left = [name for name in norms_of(net) if name.startswith("backbone")]
    assert len(left) == num_left
    assert_same_maps(model, net)


def test_half_precision_stays_close():
    model = network("mobilenetv2_100")
    net = for_inference(model)
    images = torch.randn(2, 3, 96, 64)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        before, after = model(images).prob_map, net(images).prob_map
    with torch.no_grad():
        exact = model(images).prob_map
    assert (after - exact).abs().mean() < 2 * (before - exact).abs().mean() + 1e-4
