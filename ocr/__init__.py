"""Text detection with DBNet: data sets, targets, network, training, post-processing, metrics.

docs/architecture.md says what each folder holds. The files beside the folders:

config           the configuration of each command
program          names commands as this user types them
splits           builds the checked data set of a split
image_size       chooses the size of the input by the heights of the words (pipeline.image_size=auto)
inference        evaluation and prediction
  restore          a trained network with a command's overrides
  checkpoint       checkpoints with their configuration
  onnx_network     the network of an .onnx file
  weights_file     the tensors of a file of weights
detector         TextDetector: an image in, polygons out
predictions      detections as predictions.json and as pictures
prediction_lines predictions.jsonl, continued after an interruption
polygons         the polygons of a batch as flat arrays, and the pixel frames
device           device and precision of a run
device_stages    times stages on the device without waiting for it
placement        the rank of this process among those of its run
cache_statistics hits and misses of the caches, and their log line
environment      machine, versions and commit, for results
machine          RAM, within the limits of the control groups
atomic_write     files written completely or not at all
file_lock        locks on open files, which keep other processes out
file_names       the rule for file names that come from data
given_files      the weights, checkpoints and data sets that settings name
quick_imports    imports of the large libraries, in three quarters of the time
terminal_log, progress
                 what a person sees on the terminal
errors           errors of the input or the machine
self_test        checks in seconds that everything works here
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ocr.detector import TextDetector

    __version__: str

__all__ = ["TextDetector", "__version__"]

# OpenMP reads this when torch loads it. By default its threads spin while they wait for each other. Where DALI's threads or other
# processes share the cores, they spin for threads that cannot run: 3 instead of 15 images/s on two shared cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# PyTorch reads this when it first allocates. With huge pages (Linux), a forward pass on a CPU takes two thirds of the time: without
# them, the system clears the small pages of each large tensor in every pass.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def __getattr__(name: str) -> Any:
    """Imports `TextDetector`, and torch with it, when it is first used; reads `__version__` from the installed package."""
    if name == "__version__":
        return _installed_version()
    if name != "TextDetector":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ocr.detector import TextDetector

    return TextDetector


def _installed_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("dali-dbnet")
    except PackageNotFoundError:  # a checkout on the path, not installed
        return "unknown"
