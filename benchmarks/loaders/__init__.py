"""The loaders of this project and third-party ones on the same files, side by side: scripts/compare_loaders.py.

Each loader is a row of the tables and runs in a process of its own. Files in reading order:

command         reads the command line, and calls `compare`
config          what to measure, and for how long
splits          the images of a split, and a choice of them
workload        images, inputs and network that all rows share
row_loader      the interface of a row's loader
rows            all rows
own_loaders     this project's loaders as rows
rivals/         third-party loaders
compare         the order of the rounds
row_process     the process of a row, seen from the comparing process
preloaded       what the server of these processes imports, once
messages        commands to that process, and its answers
worker          the process of a row
passes          the work of an epoch at each level, which the worker times
processes       CPU time, disk reads and memory of processes; the page cache
gpu_monitor     utilisation of the GPU
parity          compares a row's output with an oracle
results         every round, and the numbers derived from them
recommendation  which loader a run should use
verdict         the conclusions in words
report          tables, results.json, results.md
chart           results.png
"""
