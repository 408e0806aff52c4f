"""Ground-truth maps from polygons, made on the device."""

from ocr.targets.config import TargetConfig
from ocr.targets.maps import TargetMaps, make_targets

__all__ = ["TargetConfig", "TargetMaps", "make_targets"]
