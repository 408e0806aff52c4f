"""The fastest worker processes we know: libjpeg-turbo scales while it decodes, workers send bytes, the main process normalises."""

import torch

from benchmarks.loaders.rivals.image import decode_scaled, normalized, scaled_levels
from benchmarks.loaders.rivals.worker_processes import WorkerProcesses, data_loader
from benchmarks.loaders.row_loader import RivalFiles

RESIZE_FILTER = "DCT scaling by halves, then bilinear (OpenCV)"


def turbojpeg_loader(files: RivalFiles) -> WorkerProcesses:
    """Returns a DataLoader with simplejpeg."""
    return WorkerProcesses(
        files,
        resize_filter=RESIZE_FILTER,
        load=data_loader(files, scaled_levels),
        decode=data_loader(files, decode_only),
        finish=normalized,
    )


def decode_only(files: RivalFiles, index: int, encoded: bytes) -> torch.Tensor:
    """Returns the (2,) size of the decoded image, which stays in the worker."""
    return torch.tensor(decode_scaled(files, index, encoded).shape[:2])
