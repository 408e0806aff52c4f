"""Finds text with TextDetector: own_process.py CHECKPOINT PRECISION.

Reads paths, one a line, and answers each with a line of JSON.
"""

import json
import sys
import time
from pathlib import Path
from typing import cast

import torch

from ocr import TextDetector
from ocr.config import Precision
from ocr.environment import package_versions


def main() -> None:
    torch.set_num_threads(1)
    detector = TextDetector(sys.argv[1], device="cpu", precision=cast(Precision, sys.argv[2]))
    start = {
        "versions": package_versions("onnxruntime"),
        "loaded_kb": peak_kb(),
        "image_size": detector.pipeline.image_size,
    }
    print(json.dumps(start), flush=True)
    for line in sys.stdin:
        started = time.process_time()
        found = detector(line.rstrip("\n"))
        seconds = time.process_time() - started
        answer = {
            "cpu_seconds": seconds,
            "polygons": [polygon.tolist() for polygon in found.polygons],
            "scores": found.scores.tolist(),
            "peak_kb": peak_kb(),
        }
        print(json.dumps(answer), flush=True)


def peak_kb() -> int:
    """Returns the largest resident set of this process. ru_maxrss would count that of the process that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


main()
