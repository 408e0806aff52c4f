"""Metrics of detected text against its annotations."""

from ocr.metrics.cleval import CLEvalMetric
from ocr.metrics.icdar import ICDARMetric

__all__ = ["CLEvalMetric", "ICDARMetric"]
