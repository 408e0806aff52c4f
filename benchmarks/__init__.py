"""Measurements of this project's parts; not in the wheel. The scripts of the same names call them.

In reading order: `loaders` (our loaders beside others', scripts/compare_loaders.py), `sweep` (one setting varied at a time,
scripts/sweep_defaults.py), `targets` (ground-truth maps, scripts/benchmark_targets.py), `validation` (validation epochs and cache
settings, scripts/benchmark_validation.py). `environment` and `report` are shared: the machine and versions beside each result, and
tables for the terminal and for Markdown.
"""
