"""How well detected text agrees with the annotations."""

from ocr.metrics.cleval import CLEvalMetric
from ocr.metrics.icdar import ICDARMetric

__all__ = ["CLEvalMetric", "ICDARMetric"]
