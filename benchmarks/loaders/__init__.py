"""The loaders of this project and of others on the same files, side by side: scripts/compare_loaders.py.

In reading order:
- `config`, `splits`, `workload`: what to measure, and the images and inputs that all rows share
- `row_loader`: the interface of a row; `rows`: all rows; `own_loaders` and `rivals`: their loaders
- `messages`, `worker`, `row_process`: a row in a process of its own, and the commands it answers
- `passes`, `processes`, `gpu_monitor`, `parity`: what the worker runs, counts, and compares with the oracle
- `compare`, `results`: the order of the rounds, and their results
- `recommendation`, `verdict`, `report`, `chart`: what follows, in words, tables and bars
"""
