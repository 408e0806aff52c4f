"""Configuration of the network."""

import re
from typing import Literal

from pydantic import Field, field_validator

from dali_pipelines.config import Section


class BackboneConfig(Section):
    """The network's feature extractor."""

    name: str = "resnet18"
    """A timm model with features at strides 4, 8, 16 and 32, e.g. resnet18, resnet50, mobilenetv3_large_100."""
    weights: str | None = "pretrained"
    """`pretrained` (timm's weights from the hub or its local cache; random weights and a warning if neither has them), a file
    (.pth, .pt or .safetensors of timm or torchvision, by name or, where the names differ, by order; or a checkpoint of this
    trainer, whose backbone is taken; `init_from` takes the whole network), or null for random weights."""


class ModelConfig(Section):
    """The network: backbone, feature pyramid and DB head."""

    backbone: BackboneConfig = BackboneConfig()
    fpn_channels: int = Field(default=256, ge=16, multiple_of=16)
    """Number of channels of the fused feature pyramid."""
    fpn_kernel_size: Literal[3, 5, 7, 9, 11, 13] = 3
    """Side of the kernels that smooth the pyramid's levels. Above 3 they are depthwise, followed by a 1x1 convolution, and training
    adds a small kernel to each, which evaluation and export merge into it."""
    adaptive_fusion: bool = False
    """Fuse the pyramid's levels by DBNet++'s adaptive scale fusion."""
    head_float32: bool = True
    """Compute the head in float32 under mixed precision. False is faster; it is safe with bfloat16 but not with float16."""
    freeze: str = "none"
    """Part of the network that training does not change, statistics of batch norms included: none, backbone, or stages:N, the stem
    and the first N of the backbone's four stages."""
    batch_norm: Literal["batch", "frozen_backbone", "frozen"] = "batch"
    """Statistics by which batch norms normalise in training. batch: those of each batch; evaluation uses their running averages.
    frozen: the running averages of the loaded weights, which stay as they are, while scale and bias are trained; for fine-tuning
    (`init_from`) with batches of a few images, whose own statistics are noisy. frozen_backbone: the same in the backbone only, for
    a trained backbone with a new pyramid and head."""
    batch_norm_momentum: float | None = Field(default=None, gt=0, le=1)
    """Share of a batch in the running statistics; null: that of each layer, 0.1 in most networks. Less averages over more batches,
    which suits small ones."""

    @field_validator("freeze")
    @classmethod
    def _is_part(cls, freeze: str) -> str:
        if not re.fullmatch(r"none|backbone|stages:[1-4]", freeze, re.ASCII):
            raise ValueError("expected none, backbone, or stages:N with N from 1 to 4")
        return freeze
