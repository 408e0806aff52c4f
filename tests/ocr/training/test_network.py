"""The forward pass of a batch of one image."""

import pytest
import torch

from ocr.config import TrainerConfig
from ocr.models.config import ModelConfig
from ocr.models.dbnet import build_dbnet
from ocr.training.network import forward_maps, prepare_network


def network(name: str):
    torch.manual_seed(0)
    return build_dbnet(ModelConfig.model_validate({"fpn_channels": 16, "backbone": {"name": name, "weights": None}}), 4)


@pytest.mark.parametrize(("name", "size"), [("resnet18", 32), ("mobilenetv3_small_050", 32), ("skresnet18", 64)])
def test_a_training_batch_of_one_image_does_not_end_the_run(name, size):
    model = network(name).train()
    images = torch.randn(1, 3, size, size)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        model(images)
    maps = forward_maps(model, images, channels_last=False)
    (maps.prob_logits.mean() + maps.thresh_map.mean()).backward()
    assert torch.isfinite(maps.prob_logits).all()
    assert all(layer.training for layer in model.modules())


def test_a_batch_of_one_large_image_has_the_result_of_plain_batch_norm():
    images = torch.randn(1, 3, 96, 96)
    expected, found = network("resnet18").train(), network("resnet18").train()
    maps = forward_maps(found, images, channels_last=False)
    assert torch.equal(maps.prob_logits, expected(images).prob_logits)
    for name, value in expected.state_dict().items():
        assert torch.equal(value, found.state_dict()[name])


@pytest.mark.parametrize("channels_last", [True, False])
def test_channels_last_is_the_memory_format_of_weights_and_images(channels_last):
    model, seen = network("resnet18").eval(), []
    prepare_network(model, TrainerConfig(channels_last=channels_last))
    model.backbone.register_forward_pre_hook(lambda backbone, images: seen.append(images[0]))
    forward_maps(model, torch.randn(1, 3, 64, 64), channels_last=channels_last)
    for tensor in (*seen, model.backbone.conv1.weight, model.fpn.smooth[0][0].weight):
        assert tensor.is_contiguous(memory_format=torch.channels_last) == channels_last
