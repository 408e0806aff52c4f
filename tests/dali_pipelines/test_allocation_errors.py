from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from nvidia.dali import fn, pipeline_def
from PIL import Image

from dali_pipelines.allocation_errors import FailedAllocation, find_failed_allocation
from dali_pipelines.config import PipelineConfig
from dali_pipelines.loader import DaliLoader
from dali_pipelines.source import PlannedBatch, SourceImages
from ocr.datasets.plan import letterbox

CPU = torch.device("cpu")
CONFIG = PipelineConfig(image_size=64, prefetch_queue_depth=2)


def raised_by(function) -> BaseException:
    try:
        function()
    except BaseException as error:
        return error
    raise AssertionError("the function raised nothing")


def resized_by_dali():
    @pipeline_def(batch_size=1, num_threads=1, device_id=None)
    def pipeline():
        image = fn.external_source(source=lambda: [np.zeros((8, 8, 3), np.uint8)], batch=True, layout="HWC")
        return fn.resize(image, size=[4e6, 4e6])

    pipeline().run()


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda: torch.empty(2**50), FailedAllocation("RAM", "torch", 2**52)),
        (lambda: np.empty(2**50), FailedAllocation("RAM", "NumPy", 2**53)),
        (lambda: np.empty(3 * 2**48, np.uint8), FailedAllocation("RAM", "NumPy", 3 * 2**48)),  # says "768. TiB"
        (
            lambda: cv2.resize(np.zeros((4, 4, 3), np.uint8), (2 * 10**6,) * 2),
            FailedAllocation("RAM", "OpenCV", 12 * 10**12),
        ),
        (lambda: bytearray(2**60), FailedAllocation("RAM", "Python", None)),
        (resized_by_dali, FailedAllocation("RAM", "DALI", None)),
    ],
    ids=["torch", "numpy", "numpy, hundreds", "opencv", "python", "dali"],
)
def test_real_failed_allocations_are_recognised(function, expected):
    assert find_failed_allocation(raised_by(function)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has a total capacity of 8.00 GiB of which 1.00 GiB is free.",
            FailedAllocation("GPU memory", "torch", 3 * 2**29),
        ),
        (
            "Critical error in pipeline:\nError in mixed operator `nvidia.dali.fn.decoders.image`\nencountered:\n\n"
            "Can't allocate 129499136 bytes on device 0.\nCurrent pipeline object is no longer valid.",
            FailedAllocation("GPU memory", "DALI", 129_499_136),
        ),
        ("Critical error in pipeline:\nCan't allocate 4096 bytes on host.", FailedAllocation("RAM", "DALI", 4096)),
        ("CUDA allocation failed", FailedAllocation("GPU memory", "DALI", None)),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", FailedAllocation("GPU memory", "cuDNN", None)),
        ("GET was unable to find an engine to execute this computation", FailedAllocation("GPU memory", "cuDNN", None)),
        (
            "FIND was unable to find an engine to execute this computation",
            FailedAllocation("GPU memory", "cuDNN", None),
        ),
        ("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED", FailedAllocation("RAM", "cuDNN", None)),
        (
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
            FailedAllocation("GPU memory", "CUDA's libraries", None),
        ),
        ("DataLoader worker (pid 12) is killed by signal: Killed. ", FailedAllocation("RAM", "a worker process", None)),
    ],
)
def test_messages_of_libraries_are_recognised(text, expected):
    assert find_failed_allocation(RuntimeError(text)) == expected


def test_memory_errors_and_enomem_are_recognised():
    assert find_failed_allocation(MemoryError("Can't allocate 4096 bytes on device 0.")) == FailedAllocation(
        "GPU memory", "DALI", 4096
    )
    assert find_failed_allocation(OSError(12, "Cannot allocate memory")) == FailedAllocation("RAM", "Python", None)


def test_other_errors_are_not_failed_allocations():
    for error in (
        RuntimeError("nvImageCodec failure: '#4'"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        OSError(28, "No space left on device"),
        ValueError("MemoryError"),
        None,
    ):
        assert find_failed_allocation(error) is None


def test_the_cause_of_an_error_is_searched_too():
    outer = RuntimeError("the step failed")
    outer.__cause__ = MemoryError()
    assert find_failed_allocation(outer) == FailedAllocation("RAM", "Python", None)


class OneBatch:
    epoch, following = 0, None

    def __init__(self, sample: PlannedBatch) -> None:
        self._sample = sample

    def __len__(self) -> int:
        return 1

    def batch(self, step: int) -> PlannedBatch:
        return self._sample


def test_the_loader_reraises_a_failed_allocation_and_blames_no_file(tmp_path, caplog):
    path = tmp_path / "sound.jpg"
    Image.fromarray(np.zeros((50, 60, 3), np.uint8)).save(path)
    too_large = replace(letterbox([0], [(50, 60)], 64), resized_sizes=np.array([(2 * 10**6,) * 2]))
    loader = DaliLoader(SourceImages([str(path)]), CONFIG, training=False, batch_size=1, device=CPU)
    with pytest.raises(RuntimeError, match="you tried to allocate 12000000000000 bytes"):
        next(loader.batches(OneBatch(too_large)))
    assert loader.failures == {}
    assert "sample by sample" not in caplog.text
