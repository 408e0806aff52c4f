"""The fake GPU finds what it is for; and nothing between a loader and the loss waits for a GPU or stays on the CPU."""

from collections.abc import Callable
from contextlib import suppress

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from dali_pipelines.config import PipelineConfig
from dali_pipelines.normalize import normalize_levels
from ocr.cache.entry import EntryLayout
from ocr.config import TrainConfig
from ocr.losses.db_loss import DBLoss
from ocr.models.dbnet import add_auxiliary_head, build_dbnet
from ocr.postprocess.levels import to_levels
from ocr.targets.target_maps import TargetMaps
from ocr.training.network import forward_maps, prepare_network
from tests.fake_gpu import fake_gpu

GPU = torch.device("cuda", 0)
SIZE = 64


@pytest.mark.parametrize(
    ("action", "name"),
    [
        (lambda on_gpu: on_gpu.sum().item(), "_local_scalar_dense"),
        (lambda on_gpu: on_gpu.nonzero(), "nonzero"),
        (lambda on_gpu: on_gpu[on_gpu > 0], "index"),
        (lambda on_gpu: on_gpu.cpu(), "_to_copy"),
        (lambda on_gpu: on_gpu.copy_(torch.zeros(4)), "copy_"),
        (lambda on_gpu: on_gpu.__setitem__([0, 2], on_gpu[1:3]), "_to_copy"),
        (lambda on_gpu: torch.tensor((1.0, 2.0), device=GPU), "_to_copy"),
    ],
)
def test_what_waits_is_named(action: Callable[[torch.Tensor], object], name: str) -> None:
    with fake_gpu() as waits:
        on_gpu = torch.zeros(4, device=GPU)
        with suppress(DataDependentOutputException, DynamicOutputShapeException):  # there are no data
            action(on_gpu)
    assert name in waits


def test_what_does_not_wait_is_not_named_and_a_tensor_of_the_cpu_is_an_error() -> None:
    with fake_gpu() as waits:
        on_gpu = torch.zeros(4, device=GPU)
        on_gpu.copy_(torch.zeros(4), non_blocking=True)
        on_gpu[2] = on_gpu[1] * 2
        with pytest.raises(RuntimeError, match=r"two (different )?devices"):
            on_gpu + torch.zeros(4)
    assert waits == []


def test_batches_are_normalised_blanked_packed_and_unpacked_without_waiting() -> None:
    config, layout = PipelineConfig(), EntryLayout(SIZE, SIZE, "float16")
    with fake_gpu() as waits:
        levels = torch.empty(2, 3, SIZE, SIZE, dtype=torch.uint8, device=GPU)
        images = normalize_levels(levels, config.mean, config.std, dtype=torch.float16)
        packed = layout.pack(images, maps_of(2, SIZE))
        cached = layout.unpack_targets(packed)
        assert cached is not None
        blanked = cached.blanked(torch.zeros(2, dtype=torch.bool))
        assert {tensor.device for tensor in (*packed.values(), blanked.shrink_mask)} == {GPU}
    assert waits == []


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"model": {"adaptive_fusion": True}, "targets": {"map_stride": 4}},
        {"loss": {"per_image": True, "auxiliary_weight": 0.4}, "targets": {"max_text_weight": 8}},
        {"loss": {"shrink_loss": "focal_dice"}},
    ],
    ids=["default", "DBNet++, stride 4", "per image, auxiliary head", "focal dice"],
)
def test_network_loss_and_levels_stay_on_the_gpu_and_do_not_wait(settings: dict[str, dict[str, object]]) -> None:
    config = TrainConfig.model_validate(
        settings | {"model": {"fpn_channels": 16, "backbone": {"weights": None}} | settings.get("model", {})}
    )
    stride = config.targets.map_stride
    model = build_dbnet(config.model, stride)
    if config.loss.auxiliary_weight:
        add_auxiliary_head(model, config.model, stride)
    loss = DBLoss(config.loss)
    prepare_network(model, config.trainer)
    with fake_gpu() as waits:
        move_to_fake_gpu(model)
        move_to_fake_gpu(loss)
        for size in (2, 1):
            images = torch.empty(size, 3, SIZE, SIZE, dtype=torch.float16, device=GPU)
            maps = forward_maps(model.train(), images, config.trainer.channels_last)
            losses = loss(maps, maps_of(size, SIZE // stride))
            assert losses.total.device == GPU
            maps = forward_maps(model.eval(), images, config.trainer.channels_last)
            assert to_levels(maps.prob_map, 0.3).device == GPU
    assert waits == []


def maps_of(num_images: int, side: int) -> TargetMaps:
    return TargetMaps(*torch.empty(4, num_images, side, side, device=GPU).unbind())


def move_to_fake_gpu(module: nn.Module) -> None:
    """Replaces all parameters and buffers. Tensors that are neither stay on the CPU, as with `module.to`."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(_on_gpu(parameter), requires_grad=parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = _on_gpu(buffer)


def _on_gpu(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=GPU)
