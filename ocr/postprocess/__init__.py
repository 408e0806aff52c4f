"""Turns probability maps into polygons in pixels of the image file."""

from ocr.postprocess.boxes import Detections, detect, detect_levels, moved_detections
from ocr.postprocess.config import PostprocessConfig
from ocr.postprocess.levels import to_levels
from ocr.postprocess.pool import OrderedPool

__all__ = [
    "Detections",
    "OrderedPool",
    "PostprocessConfig",
    "detect",
    "detect_levels",
    "moved_detections",
    "to_levels",
]
