"""Time and memory of a run until its first batch, by the size of the data set: python -m benchmarks.startup.

drawing    draws a data set of any size
one_start  one start, in a process of its own
"""
