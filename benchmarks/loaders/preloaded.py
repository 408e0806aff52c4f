"""Modules that the server of the rows' processes imports before it forks them."""

from ocr.quick_imports import quick_imports

with quick_imports():
    from benchmarks.loaders import worker as worker
