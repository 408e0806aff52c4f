"""One setting varied at a time around a configuration, as scripts/sweep_defaults.py does.

In reading order: `config`, `factors` (settings and their values), `run` (each value in a process of its own), `results` (which
values are better), `report` (tables and conclusions). Loaders, processes and rounds come from `benchmarks.loaders`.
"""
