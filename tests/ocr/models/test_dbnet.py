import logging
import socket

import pytest
import timm
import torch

from ocr.errors import InputError
from ocr.losses.config import LossConfig
from ocr.losses.db_loss import DBLoss
from ocr.models.backbone import STRIDES, build_backbone
from ocr.models.config import BackboneConfig, ModelConfig
from ocr.models.db_head import DBMaps, TrainingMaps, approximate_binary_map
from ocr.models.dbnet import DBNet, add_auxiliary_head, build_dbnet
from ocr.models.fpn import AdaptiveScaleFusion
from ocr.targets.target_maps import TargetMaps


def scratch(name: str = "resnet18") -> BackboneConfig:
    return BackboneConfig(name=name, weights=None)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenetv3_large_100"])
@pytest.mark.parametrize("adaptive_fusion", [False, True])
def test_maps_have_the_size_of_the_input(name, adaptive_fusion):
    config = ModelConfig(backbone=scratch(name), fpn_channels=32, adaptive_fusion=adaptive_fusion)
    maps = build_dbnet(config, map_stride=1).eval()(torch.randn(2, 3, 96, 64))
    assert maps.prob_logits.shape == maps.thresh_map.shape == (2, 96, 64)
    assert (maps.thresh_map >= 0).all()
    assert (maps.thresh_map <= 1).all()


@pytest.mark.parametrize("map_stride", [1, 2, 4])
def test_map_stride_sets_the_resolution_of_the_maps(map_stride):
    maps = build_dbnet(ModelConfig(backbone=scratch(), fpn_channels=32), map_stride).eval()(torch.randn(1, 3, 64, 64))
    assert maps.prob_logits.shape == (1, 64 // map_stride, 64 // map_stride)


@pytest.mark.parametrize("kernel_size", [3, 7])
def test_every_parameter_gets_a_gradient(kernel_size):
    config = ModelConfig(
        backbone=scratch(), fpn_channels=32, fpn_kernel_size=kernel_size, adaptive_fusion=kernel_size == 3
    )
    model = build_dbnet(config, 1)
    maps = model(torch.randn(2, 3, 64, 64))
    (maps.prob_logits.square().mean() + maps.thresh_map.mean()).backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []


def test_convolutions_of_neck_and_heads_begin_with_the_spread_that_suits_relu():
    model = with_auxiliary_head(2)
    for part in (model.fpn, model.head, model.auxiliary):
        for conv in part.modules():
            if isinstance(conv, torch.nn.Conv2d) and conv.weight.numel() > 1000:
                wanted = (2 / conv.weight[0].numel()) ** 0.5
                assert conv.weight.std().item() == pytest.approx(wanted, rel=0.1)


def with_auxiliary_head(map_stride: int) -> DBNet:
    torch.manual_seed(0)
    config = ModelConfig(backbone=scratch(), fpn_channels=32)
    model = build_dbnet(config, map_stride)
    add_auxiliary_head(model, config, map_stride)
    return model


@pytest.mark.parametrize("map_stride", [1, 2, 4])
def test_the_maps_of_an_auxiliary_head_have_the_size_of_the_others(map_stride):
    maps = with_auxiliary_head(map_stride)(torch.randn(2, 3, 64, 96))
    assert isinstance(maps, TrainingMaps)
    for tensor in (*maps.maps, *maps.auxiliary):
        assert tensor.shape == (2, 64 // map_stride, 96 // map_stride)
    blocks = maps.auxiliary.prob_logits.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))
    assert torch.equal(blocks[:, :, :1, :, :1].expand_as(blocks), blocks)
    assert not torch.equal(maps.auxiliary.prob_logits, maps.maps.prob_logits)


def test_an_auxiliary_head_changes_neither_the_other_maps_nor_the_other_weights():
    model, images = with_auxiliary_head(4), torch.randn(2, 3, 64, 64)
    torch.manual_seed(0)
    plain = build_dbnet(ModelConfig(backbone=scratch(), fpn_channels=32), 4)
    state = plain.state_dict()
    others = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("auxiliary.")}
    assert others.keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in others.items())
    in_training = model(images)
    assert all(map(torch.equal, in_training.maps, plain(images)))
    in_evaluation = model.eval()(images)
    assert isinstance(in_evaluation, DBMaps)
    assert all(map(torch.equal, in_evaluation, plain.eval()(images)))


def test_every_parameter_gets_a_gradient_from_the_loss_of_both_heads():
    model = with_auxiliary_head(4)
    maps = model(torch.randn(2, 3, 64, 64))
    ones = torch.ones(2, 16, 16)
    DBLoss(LossConfig(auxiliary_weight=0.5))(maps, TargetMaps(ones, ones, ones, ones)).total.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert model.auxiliary.head.prob[0][0].weight.grad.any()


def test_only_a_large_kernel_changes_the_names_and_shapes_of_the_pyramid():
    def smoothing(kernel_size: int) -> dict[str, tuple[int, ...]]:
        config = ModelConfig(backbone=scratch(), fpn_channels=32, fpn_kernel_size=kernel_size)
        state = build_dbnet(config, 4).fpn.smooth[3].state_dict()
        return {name: tuple(tensor.shape) for name, tensor in state.items() if tensor.ndim > 1}

    assert smoothing(3) == {"0.weight": (8, 32, 3, 3)}
    kernels = {"0.large.0.weight": (32, 1, 9, 9), "0.small.0.weight": (32, 1, 3, 3), "2.weight": (8, 32, 1, 1)}
    assert smoothing(9) == kernels


@pytest.mark.parametrize("head_float32", [True, False])
def test_maps_are_float32_under_autocast(head_float32):
    model = build_dbnet(ModelConfig(backbone=scratch(), fpn_channels=32, head_float32=head_float32), 1).eval()
    with torch.autocast("cpu", torch.bfloat16):
        maps = model(torch.randn(1, 3, 64, 64))
    assert maps.prob_logits.dtype == maps.thresh_map.dtype == torch.float32


@pytest.mark.parametrize("head_float32", [True, False])
def test_head_float32_decides_the_precision_of_the_head_alone(head_float32):
    model = build_dbnet(ModelConfig(backbone=scratch(), fpn_channels=32, head_float32=head_float32), 4).eval()
    add_auxiliary_head(model, ModelConfig(fpn_channels=32, head_float32=head_float32), 4)
    dtypes = {}
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            layer.register_forward_hook(lambda _, inputs, output, name=name: dtypes.update({name: output.dtype}))
    with torch.autocast("cpu", torch.bfloat16):
        model.train()(torch.randn(2, 3, 64, 64))
        in_training, dtypes = dtypes.copy(), {}
        model.head.prob_logits(torch.randn(2, 32, 16, 16))
    assert {name.partition(".")[0] for name in in_training} == {"backbone", "fpn", "head", "auxiliary"}
    in_head = torch.float32 if head_float32 else torch.bfloat16
    for name, dtype in in_training.items():
        assert dtype == (in_head if name.startswith(("head.", "auxiliary.")) else torch.bfloat16), name
    assert set(dtypes.values()) == {in_head}


def test_adaptive_fusion_weighs_each_level_at_each_pixel_by_a_look_at_all_levels():
    torch.manual_seed(0)
    fusion = AdaptiveScaleFusion(channels=16, num_levels=4)
    levels = torch.randn(2, 4, 4, 6, 8)
    reduced = fusion.reduce(levels.flatten(1, 2))
    attention = fusion.weigh(reduced + fusion.spatial(reduced.mean(dim=1)[:, None]))
    fused = fusion(levels.flatten(1, 2)).unflatten(1, (4, 4))
    for level in range(4):
        for channel in range(4):
            expected = levels[:, level, channel] * attention[:, level]
            torch.testing.assert_close(fused[:, level, channel], expected)


def test_the_step_function_is_a_half_where_probability_and_threshold_meet():
    maps = DBMaps(torch.logit(torch.tensor([0.5, 0.6, 0.4])), torch.tensor([0.5, 0.5, 0.5]))
    expected = [0.5, 1 / (1 + torch.exp(torch.tensor(-5.0))), 1 / (1 + torch.exp(torch.tensor(5.0)))]
    torch.testing.assert_close(approximate_binary_map(maps, k=50.0), torch.tensor(expected))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_backbone_weights_come_from_a_file_with_a_classifier(tmp_path, suffix):
    source = timm.create_model("resnet18", pretrained=False)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(source.state_dict(), path)
    else:
        from safetensors.torch import save_file

        save_file(source.state_dict(), path)
    backbone, channels = build_backbone(BackboneConfig(name="resnet18", weights=str(path)))
    assert channels == [64, 128, 256, 512]
    assert torch.equal(backbone.state_dict()["layer4.1.conv2.weight"], source.state_dict()["layer4.1.conv2.weight"])


def test_tensors_with_other_names_are_taken_in_their_order(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    source = timm.create_model("mobilenetv2_100", pretrained=False).state_dict()
    renamed = {
        f"features.{place}.{name.rpartition('.')[2]}": value for place, (name, value) in enumerate(source.items())
    }
    torch.save(renamed, tmp_path / "renamed.pth")
    config = BackboneConfig(name="mobilenetv2_100", weights=str(tmp_path / "renamed.pth"))
    backbone, _ = build_backbone(config)
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, source[name])
    assert "renamed.pth, whose names differ, by their order" in caplog.text


@pytest.mark.parametrize("prefix", ["model.backbone.", "backbone."])
def test_the_backbone_of_a_whole_network_is_taken(tmp_path, prefix):
    source = build_backbone(scratch("test_resnet"))[0].state_dict()
    network = {f"{prefix}{name}": value for name, value in source.items()}
    others = {"model.fpn.weight": torch.zeros(3), "conv1.weight": torch.zeros(3)}
    torch.save({"state_dict": others | network}, tmp_path / "last.ckpt")
    backbone, _ = build_backbone(BackboneConfig(name="test_resnet", weights=str(tmp_path / "last.ckpt")))
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, source[name])


def test_tensors_of_the_right_shapes_in_another_order_are_refused(tmp_path):
    state = timm.create_model("mobilenetv2_100", pretrained=False).state_dict()
    exchanged = {"running_mean": "running_var", "running_var": "running_mean"}
    kinds = [exchanged.get(kind, kind) for kind in (name.rpartition(".")[2] for name in state)]
    renamed = {f"{place}.{kind}": value for place, (kind, value) in enumerate(zip(kinds, state.values(), strict=True))}
    torch.save(renamed, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"other\.pth: \d+ of \d+ tensors of mobilenetv2_100 are missing"):
        build_backbone(BackboneConfig(name="mobilenetv2_100", weights=str(tmp_path / "other.pth")))


def test_weights_of_another_model_are_refused_by_name(tmp_path):
    path = tmp_path / "other.pth"
    torch.save(timm.create_model("mobilenetv3_large_100").state_dict(), path)
    with pytest.raises(ValueError, match=r"other\.pth: \d+ of \d+ tensors of resnet18"):
        build_backbone(BackboneConfig(name="resnet18", weights=str(path)))


def test_a_missing_weight_file_and_an_unknown_model_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        build_backbone(BackboneConfig(weights=str(tmp_path / "nowhere.pth")))
    with pytest.raises(ValueError, match=r"resnet19.*no such model"):
        build_backbone(scratch("resnet19"))


def test_weights_that_cannot_be_read_are_refused_in_one_line(tmp_path):
    for name in ("text.pth", "text.safetensors"):
        (tmp_path / name).write_text("no weights")
        with pytest.raises(InputError, match=f"{name}: not readable as weights") as caught:
            build_backbone(BackboneConfig(name="resnet18", weights=str(tmp_path / name)))
        assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize("name", ["resnet18.a1_in1k", "mambaout_femto", "swin_tiny_patch4_window7_224.ms_in1k"])
def test_a_tagged_name_and_channels_last_features_work_at_any_size(name):
    backbone, channels = build_backbone(scratch(name))
    for size in (64, 96):
        features = backbone.eval()(torch.zeros(1, 3, size, size))
        expected = [(1, count, size // stride, size // stride) for count, stride in zip(channels, STRIDES, strict=True)]
        assert [tuple(feature.shape) for feature in features] == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18.none", "no weights 'none' for it; it has .*resnet18.a1_in1k"),
        ("maxvit_tiny_tf_224", "images of one size only"),
        ("mvitv2_tiny", "images of one size only"),
    ],
)
def test_a_name_that_does_not_work_is_refused_in_one_line(name, message):
    with pytest.raises(InputError, match=message) as caught:
        build_backbone(scratch(name))
    assert "\n" not in str(caught.value)


def test_a_backbone_without_fine_features_is_refused():
    with pytest.raises(ValueError, match="strides"):
        build_backbone(scratch("vit_tiny_patch16_224"))


def test_without_network_and_cache_weights_are_random_without_delay(monkeypatch, tmp_path, caplog):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    _, channels = build_backbone(BackboneConfig(name="resnet18", weights="pretrained"))
    assert channels == [64, 128, 256, 512]
    assert "starts from random weights" in caplog.text


def test_a_hub_that_the_user_switched_off_is_left_alone(monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as hub:
        hub.setblocking(False)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{hub.getsockname()[1]}")
        build_backbone(BackboneConfig(name="resnet18", weights="pretrained"))
        with pytest.raises(BlockingIOError):
            hub.accept()  # nobody has called
    assert huggingface_hub.constants.HF_HUB_OFFLINE is True
