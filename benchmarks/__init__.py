"""Measurements of this project's parts. In a wheel they lie below `ocr/_bundled`.

loaders/     our loaders beside third-party ones: scripts/compare_loaders.py
sweep/       one setting varied at a time: scripts/sweep_defaults.py
host/        CPU time of the parts that stay on the CPU: python -m benchmarks.host
targets      ground-truth maps: scripts/benchmark_targets.py
validation/  validation epochs and cache settings: scripts/benchmark_validation.py
startup/     time and memory until the first batch: python -m benchmarks.startup
shards/      images a second from S3: python -m benchmarks.shards
recipes/     recipes of training and evaluation, one change at a time: python -m benchmarks.recipes
detectors/   TextDetector beside other text detectors: python -m benchmarks.detectors
environment  machine, versions and command, written beside each result
report       tables and sentences for the terminal and for Markdown
terminal     progress bars, and runs that Ctrl-C ends early
"""
