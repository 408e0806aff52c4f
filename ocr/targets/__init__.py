"""Draws ground-truth maps from polygons, on the device."""

from ocr.targets.config import TargetConfig
from ocr.targets.maps import make_targets
from ocr.targets.target_maps import TargetMaps

__all__ = ["TargetConfig", "TargetMaps", "make_targets"]
