"""Recipes of training, measured one change at a time against one baseline: python -m benchmarks.recipes.

Files in reading order:

recipes  the baselines and the changes, with the reason for each
inputs   the files that recipes need beside the data: a short annotation file, drawn pictures
pasted   training images with words of other training images pasted on free places
running  runs one recipe as the command that a user types, and reads its scores
results  the measured rows, what is missing, which differences are clear
report   tables and sentences
"""
