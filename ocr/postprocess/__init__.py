"""From probability maps to polygons in pixels of the file."""

from ocr.postprocess.boxes import Detections, detect, moved_detections
from ocr.postprocess.config import PostprocessConfig

__all__ = ["Detections", "PostprocessConfig", "detect", "moved_detections"]
