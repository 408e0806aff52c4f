"""One setting varied at a time around a configuration: scripts/sweep_defaults.py.

Loaders, processes and rounds come from `benchmarks.loaders`. Files in reading order:

config   how to measure
factors  the settings and their values
run      measures each value in a process of its own
results  which values are better
report   tables and conclusions
"""
