"""DBNet and DBNet++: backbone, feature pyramid and head."""

from torch import Tensor, nn
from typing_extensions import Self

from ocr.models.activations import avoid_copies
from ocr.models.backbone import build_backbone
from ocr.models.config import ModelConfig
from ocr.models.db_head import AuxiliaryHead, DBHead, DBMaps, TrainingMaps
from ocr.models.fpn import FPN
from ocr.models.strided_depthwise import use_fast_gradients

AUXILIARY_PREFIX = "auxiliary."
"""Beginning of the names of the auxiliary head's tensors in `DBNet.state_dict()`."""


class DBNet(nn.Module):
    """Predicts the maps of normalised images."""

    def __init__(self, backbone: nn.Module, fpn: FPN, head: DBHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.fpn = fpn
        self.head = head
        self.auxiliary: AuxiliaryHead | None = None
        """A second head that training may have; see `add_auxiliary_head`."""
        self.frozen: list[nn.Module] = []
        """Parts that stay in evaluation mode; see ocr/models/stages.py and ocr/models/batch_norms.py."""

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for part in self.frozen:
            part.eval()
        return self

    def forward(self, images: Tensor) -> DBMaps | TrainingMaps:
        """Returns the maps of (B, 3, H, W) images, in training also those of an auxiliary head; H and W are multiples of 32."""
        if self.auxiliary is None or not self.training:
            return self.head(self.fpn(self.backbone(images)))
        levels = self.fpn.levels(self.backbone(images))
        return TrainingMaps(self.head(self.fpn.fused(levels)), self.auxiliary(levels[1]))


def build_dbnet(config: ModelConfig, map_stride: int) -> DBNet:
    """Builds the network, whose maps have 1 / map_stride of the input's resolution."""
    backbone, channels = build_backbone(config.backbone)
    use_fast_gradients(backbone)
    avoid_copies(backbone)
    fpn = FPN(channels, config.fpn_channels, config.fpn_kernel_size, config.adaptive_fusion)
    head = DBHead(config.fpn_channels, map_stride, config.head_float32)
    for module in (fpn, head):
        module.apply(_initialize)
    return DBNet(backbone, fpn, head)


def add_auxiliary_head(network: DBNet, config: ModelConfig, map_stride: int) -> None:
    """Gives a network that was built with these settings a second head for training, in place."""
    network.auxiliary = AuxiliaryHead(config.fpn_channels, map_stride, config.head_float32)
    network.auxiliary.apply(_initialize)


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
