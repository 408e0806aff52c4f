"""How well detected text agrees with the annotations."""

from ocr.metrics.icdar import ICDARMetric

__all__ = ["ICDARMetric"]
