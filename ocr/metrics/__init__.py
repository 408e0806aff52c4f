"""Metrics of detected text against its annotations.

Files in reading order:

regions        polygons as flat arrays and as geometries
overlaps       the overlap between two sets of regions, in compiled code
pooled         the base class: sums counts over all images
icdar          ICDAR 2015: IoU precision, recall and hmean
cleval         CLEval: precision, recall and hmean by characters
pooled_counts  scores with their standard errors, also of the difference between two runs
review         what happened to each text and detection of an image; scores at other thresholds
"""
