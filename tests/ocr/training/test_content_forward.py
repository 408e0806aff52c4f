import numpy as np
import pytest
import torch
from torch import Tensor

from ocr.models.config import BackboneConfig, ModelConfig
from ocr.models.db_head import DBMaps, approximate_binary_map
from ocr.models.dbnet import build_dbnet
from ocr.training.content_forward import forward_content, forward_inputs

SIZES = np.array([[256, 100], [70, 256], [256, 128], [256, 256]])


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = ModelConfig(backbone=BackboneConfig(weights=None), fpn_channels=16)
    return build_dbnet(config, map_stride=2).eval().requires_grad_(False)


@pytest.fixture
def images():
    """Noise where an image is, black elsewhere."""
    batch = torch.full((len(SIZES), 3, 256, 256), -2.0)
    for image, (height, width) in zip(batch, SIZES, strict=True):
        image[:, :height, :width] = torch.randn(3, height, width)
    return batch


def test_maps_are_those_of_the_part_with_the_image_and_blank_elsewhere(model, images):
    maps = forward_content(model, images, SIZES)
    for index, (height, width) in enumerate([(256, 128), (128, 256), (256, 128), (256, 256)]):
        part = model(images[index : index + 1, :, :height, :width])
        torch.testing.assert_close(maps.prob_map[index, : height // 2, : width // 2], part.prob_map[0])
        torch.testing.assert_close(maps.thresh_map[index, : height // 2, : width // 2], part.thresh_map[0])
        # Neither text nor loss: the maps' step function is 0 too.
        for blank in (maps.prob_map[index].clone(), approximate_binary_map(maps, k=50.0)[index]):
            blank[: height // 2, : width // 2] = 0
            assert blank.max() < 1e-9


def test_an_image_has_the_same_maps_beside_any_other(model, images):
    together = forward_content(model, images, SIZES)
    alone = [forward_content(model, images[[index]], SIZES[[index]]) for index in range(len(SIZES))]
    torch.testing.assert_close(together.prob_logits, torch.cat([maps.prob_logits for maps in alone]))


def test_the_network_sees_each_shape_once(images):
    shapes = []

    def forward(batch: Tensor) -> DBMaps:
        shapes.append(tuple(batch.shape))
        return DBMaps(batch[:, 0, ::2, ::2], batch[:, 1, ::2, ::2])

    forward_content(forward, images, SIZES)
    assert sorted(shapes) == [(1, 3, 128, 256), (1, 3, 256, 256), (2, 3, 256, 128)]


def test_only_a_cpu_leaves_out_the_black(images):
    widths = {}

    def forward(batch: Tensor) -> DBMaps:
        widths.setdefault(batch.device.type, set()).add(batch.shape[3])
        return DBMaps(batch[:, 0], batch[:, 1])

    for device in ("cpu", "meta"):  # tensors without values stand for those of a GPU
        forward_inputs(forward, images.to(device), SIZES)
    assert widths == {"cpu": {128, 256}, "meta": {256}}
