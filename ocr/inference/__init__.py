"""Runs a trained network on images: evaluation against annotations, and prediction without them.

evaluation  the metrics of a checkpoint on a split, and the report
prediction  what is found in images: predictions.json and pictures
one_pass    one pass over the images, continued after an interruption
"""

from ocr.inference.evaluation import evaluate as evaluate
from ocr.inference.prediction import predict as predict
