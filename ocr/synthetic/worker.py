"""Draws every STEP-th image and prints the JSON entry of each on a line.

python -m ocr.synthetic.worker CONFIG_JSON ROOT FIRST STEP
"""

import json
import sys
from pathlib import Path

import cv2

from ocr.synthetic.config import SyntheticConfig
from ocr.synthetic.data_set import draw_file, jobs


def main() -> None:
    config, root = SyntheticConfig.model_validate_json(sys.argv[1]), Path(sys.argv[2])
    first, step = int(sys.argv[3]), int(sys.argv[4])
    cv2.setNumThreads(1)  # the other CPUs belong to the other workers
    for split, index in jobs(config)[first::step]:
        print(json.dumps(draw_file(config, root, split, index)), flush=True)


if __name__ == "__main__":
    main()
