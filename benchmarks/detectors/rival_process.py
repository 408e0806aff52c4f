"""Finds text with RapidOCR's detector alone: rival_process.py PACKAGE [MODEL]. Reads paths, and answers like own_process.py.

PACKAGE is rapidocr (version 3) or rapidocr_onnxruntime (version 1); MODEL is an .onnx file in place of the package's own. All other
settings are the package's defaults, except for one thread. It imports nothing of this repository: the packages may be installed
under another Python.
"""

import json
import sys
import time
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2

Found = tuple[list[Any], list[float]]
"""Polygons, and a score of each."""
Find = Callable[[Any], Found]
"""Finds text in a BGR image, (H, W, 3) uint8."""


def build(package: str, model: str | None) -> tuple[Find, str]:
    """Returns the function from a BGR image to polygons and scores, and the path of its model."""
    if package == "rapidocr_onnxruntime":
        return _version_1(model)
    return _version_3(model)


def _version_1(model: str | None) -> tuple[Find, str]:
    package = import_module("rapidocr_onnxruntime")
    folder = Path(str(package.__file__)).parent
    settings = import_module("rapidocr_onnxruntime.utils").read_yaml(folder / "config.yaml")["Det"]
    settings["model_path"] = model or str(folder / settings["model_path"])
    settings.update(intra_op_num_threads=1, inter_op_num_threads=1)
    detector = import_module("rapidocr_onnxruntime.ch_ppocr_det").TextDetector(settings)

    def find(image: Any) -> Found:
        boxes, _ = detector(image)
        found = [] if boxes is None else [box.tolist() for box in boxes]
        return found, [1.0] * len(found)  # it keeps no scores; the evaluator matches in the order of the list

    return find, settings["model_path"]


def _version_3(model: str | None) -> tuple[Find, str]:
    main = import_module("rapidocr.main")
    settings = main.ParseParams.load(main.DEFAULT_CFG_PATH)
    engine = settings.EngineConfig.onnxruntime
    engine.intra_op_num_threads = engine.inter_op_num_threads = 1
    settings.Det.engine_cfg = engine
    folder = Path(str(main.__file__)).parent / "models"
    settings.Det.model_root_dir = str(folder)
    settings.Det.model_path = model or str(next(folder.glob("*_det_*.onnx")))
    detector = main.TextDetector(settings.Det)

    def find(image: Any) -> Found:
        found = detector(image)
        return ([], []) if found.boxes is None else (found.boxes.tolist(), [float(score) for score in found.scores])

    return find, settings.Det.model_path


def main() -> None:
    answers = sys.stdout
    sys.stdout = sys.stderr  # the packages print there
    cv2.setNumThreads(1)
    package, *model = sys.argv[1:]
    find, path = build(package, model[0] if model else None)
    names = (package.replace("_", "-"), "onnxruntime", "opencv-python-headless", "opencv-python", "numpy")
    versions = {name: _version(name) for name in names}
    start = {"versions": versions, "loaded_kb": peak_kb(), "model": Path(path).name}
    print(json.dumps(start), file=answers, flush=True)
    for line in sys.stdin:
        started = time.process_time()
        polygons, scores = find(cv2.imread(line.rstrip("\n")))
        seconds = time.process_time() - started
        answer = {
            "cpu_seconds": seconds,
            "polygons": polygons,
            "scores": scores,
            "peak_kb": peak_kb(),
        }
        print(json.dumps(answer), file=answers, flush=True)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except ImportError:  # PackageNotFoundError is one
        return None


def peak_kb() -> int:
    """Returns the largest resident set of this process. ru_maxrss would count that of the process that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
