"""Finds text with TextDetector: own_process.py CHECKPOINT. Reads paths, one a line, and answers each with a line of JSON."""

import json
import resource
import sys
import time

import torch

from ocr import TextDetector
from ocr.environment import package_versions


def main() -> None:
    torch.set_num_threads(1)
    detector = TextDetector(sys.argv[1], device="cpu", precision="32-true")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = {"versions": package_versions("onnxruntime"), "loaded_kb": peak, "image_size": detector.pipeline.image_size}
    print(json.dumps(start), flush=True)
    for line in sys.stdin:
        started = time.process_time()
        found = detector(line.rstrip("\n"))
        seconds = time.process_time() - started
        answer = {
            "cpu_seconds": seconds,
            "polygons": [polygon.tolist() for polygon in found.polygons],
            "scores": found.scores.tolist(),
            "peak_kb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        }
        print(json.dumps(answer), flush=True)


main()
