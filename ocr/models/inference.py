"""The network without what only training needs: batch norms, the branch of the threshold map, and small kernels beside large ones.

In evaluation a batch norm scales and shifts each channel by constants, so the convolution before it can do that itself. Its outputs
are equal up to rounding, and half of the passes over memory are saved.
"""

import copy
from collections import Counter
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.hooks import RemovableHandle

from ocr.models.db_head import ProbMap
from ocr.models.dbnet import DBNet
from ocr.models.large_kernel import LargeKernelConv
from ocr.models.strided_depthwise import StridedDepthwiseConv2d

_PROBED_SIZE = 64


class InferenceNet(nn.Module):
    """Predicts the probability map of normalised images, as the DBNet that it was made of does.

    Args:
        model: a network in evaluation mode, whose parts are taken over.
    """

    def __init__(self, model: DBNet) -> None:
        super().__init__()
        self.backbone, self.fpn, self.head = model.backbone, model.fpn, model.head
        del self.head.thresh

    def forward(self, images: Tensor) -> ProbMap:
        """Returns the map of (B, 3, H, W) images; H and W are multiples of 32."""
        return ProbMap(torch.sigmoid(self.logits(images)))

    def logits(self, images: Tensor) -> Tensor:
        """Returns the logits of the map."""
        return self.head.prob_logits(self.fpn(self.backbone(images)))


def for_inference(model: DBNet) -> InferenceNet:
    """Returns a copy of a network on the CPU for inference. The network itself is not changed.

    A batch norm stays where the layer before it is no plain convolution, or where something else reads that layer's output.
    """
    net = InferenceNet(copy.deepcopy(model).eval())
    for name, layer in list(net.named_modules()):
        if isinstance(layer, LargeKernelConv):
            _replace(net, name, layer.merged())
    folded = copy.deepcopy(net)
    for conv_name, norm_name in _foldable(folded):
        conv, norm = (cast(Any, folded.get_submodule(name)) for name in (conv_name, norm_name))
        fused = fuse_conv_bn_eval(conv, norm, transpose=isinstance(conv, nn.ConvTranspose2d))
        _replace(folded, conv_name, fused)
        is_plain = type(norm) is nn.BatchNorm2d  # timm's has dropout and activation in it
        _replace(folded, norm_name, nn.Identity() if is_plain else nn.Sequential(norm.drop, norm.act))
    return folded if _agree(net, folded) else net


class _Use(NamedTuple):
    """A batch norm that got the output of a convolution."""

    conv: str
    norm: str


def _foldable(net: InferenceNet) -> list[_Use]:
    """Returns the names of convolutions and of the batch norms behind them, as a forward pass meets them.

    timm's models name and nest their layers in many ways, so the order of execution cannot be read from the modules.
    """
    from timm.layers import BatchNormAct2d, Conv2dSame  # takes as long to import as torch

    # A convolution of another type may normalise its weights first, and is not linear in them then.
    convolutions = (nn.Conv2d, nn.ConvTranspose2d, StridedDepthwiseConv2d, Conv2dSame)
    norms = (nn.BatchNorm2d, BatchNormAct2d)
    outputs: dict[int, tuple[str, Tensor]] = {}  # by id; holding the tensors keeps the ids unique
    num_calls = Counter[str]()
    uses: list[_Use] = []
    hooks: list[RemovableHandle] = []

    def watch(name: str, layer: nn.Module) -> None:
        def after(_: nn.Module, inputs: Any, output: Tensor) -> None:
            num_calls[name] += 1
            outputs[id(output)] = (name, output)

        def before(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            num_calls[name] += 1
            if id(inputs[0]) in outputs:
                uses.append(_Use(outputs[id(inputs[0])][0], name))

        if type(layer) in convolutions:
            hooks.append(layer.register_forward_hook(after))
        elif type(layer) in norms and layer.running_var is not None:
            hooks.append(layer.register_forward_pre_hook(before))

    for name, layer in net.named_modules():
        watch(name, layer)
    try:
        _probe(net)
    finally:
        for hook in hooks:
            hook.remove()
    return [use for use in uses if num_calls[use.conv] == num_calls[use.norm] == 1]


def _agree(net: InferenceNet, folded: InferenceNet) -> bool:
    """Returns whether two networks give the same logits: folding is wrong where two layers read a convolution's output."""
    expected, found = _probe(net), _probe(folded)
    return bool((found - expected).abs().max() <= 1e-3 * expected.abs().max())


@torch.no_grad()
def _probe(net: InferenceNet) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return net.logits(torch.randn(1, 3, _PROBED_SIZE, _PROBED_SIZE, generator=generator))


def _replace(net: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(net.get_submodule(parent), own, layer)
