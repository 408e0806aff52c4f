"""Metrics of detected text against its annotations."""
