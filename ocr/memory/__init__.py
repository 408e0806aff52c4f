"""Memory of a run: planned before it starts, explained when it runs out.

Files in reading order:

plan           the table of all parts
planner        fills the table from the data sets and returns the budgets
out_of_memory  the message when an allocation fails
remedies       commands that need less memory
"""
