"""Configuration of the network."""

from pydantic import Field

from dali_pipelines.config import Section


class BackboneConfig(Section):
    name: str = "resnet18"
    """A timm model that gives features at strides 4, 8, 16 and 32, e.g. resnet18, resnet50, mobilenetv3_large_100."""
    weights: str | None = "pretrained"
    """`pretrained` (timm's, by network or its local cache; from scratch with a warning where neither is), a file (.pth, .pt or
    .safetensors of timm's or torchvision's names), or null for random weights."""


class ModelConfig(Section):
    backbone: BackboneConfig = BackboneConfig()
    fpn_channels: int = Field(default=256, ge=16, multiple_of=16)
    """Channels of the joined pyramid."""
    adaptive_fusion: bool = False
    """DBNet++'s adaptive scale fusion."""
    head_float32: bool = True
    """Compute the head in float32 under mixed precision. False is faster and safe with bfloat16, not with float16."""
