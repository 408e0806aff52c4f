import pytest
import torch
from torch import nn

from ocr.export.graph import for_inference
from ocr.models.config import BackboneConfig, ModelConfig
from ocr.models.dbnet import DBNet, build_dbnet


def network(kernel_size: int) -> DBNet:
    """Returns a network whose batch norms have seen images."""
    torch.manual_seed(0)
    backbone = BackboneConfig(name="mobilenetv3_small_050", weights=None)
    model = build_dbnet(ModelConfig(backbone=backbone, fpn_channels=16, fpn_kernel_size=kernel_size), map_stride=4)
    for _ in range(3):
        model(torch.randn(2, 3, 64, 96))
    return model.eval()


@pytest.mark.parametrize("kernel_size", [3, 7])
def test_neck_and_head_are_exported_without_batch_norms_and_parts_of_training(kernel_size):
    model = network(kernel_size)
    names = list(model.state_dict())
    images = torch.randn(1, 3, 96, 64)
    expected = model(images)
    exported = for_inference(model)
    layers = [*exported.fpn.modules(), *exported.head.modules()]
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in layers)
    smoothing = [layer for layer in exported.fpn.smooth.modules() if isinstance(layer, nn.Conv2d)]
    assert [conv.kernel_size[0] for conv in smoothing] == ([3] if kernel_size == 3 else [kernel_size, 1]) * 4
    assert list(model.state_dict()) == names
    for found, wanted in zip(exported(images), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
