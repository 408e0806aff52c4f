"""Metrics of detected text against its annotations.

Files in reading order:

regions  polygons as geometries, and the overlap between two sets of them
pooled   the base class: sums counts over all images
icdar    ICDAR 2015: IoU precision, recall and hmean
cleval   CLEval: precision, recall and hmean by characters
"""
