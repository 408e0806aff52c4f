import cv2
import numpy as np
import pytest
import torch
from nvidia.dali import fn, pipeline_def
from PIL import Image

from dali_pipelines import memory
from dali_pipelines.config import AugmentationConfig, PipelineConfig
from dali_pipelines.loader import DaliLoader
from dali_pipelines.memory import SAFETY, PoolBytes, Shortage, pool_bytes, shortage_of
from dali_pipelines.source import PlannedSample

CPU = torch.device("cpu")
CONFIG = PipelineConfig(image_size=64, prefetch_queue_depth=2)


def predicted(sizes, config=CONFIG, *, training=False, batch_size=1, dtype=torch.float16, num_threads=1, on_gpu=True):
    return pool_bytes(
        sizes,
        config,
        training=training,
        batch_size=batch_size,
        dtype=dtype,
        num_threads=num_threads,
        on_gpu=on_gpu,
    )


def test_evaluation_of_one_image_by_hand():
    # (100, 200) becomes (32, 64) in a square of 64.
    decoded, between, resized, finished = 60_000, 4 * 3 * 6_400, 6_144, 2 * 3 * 4_096
    device = 3 * (decoded + between + resized + finished) + 2 * decoded
    pinned = 3 * decoded / 2 + 2 * decoded
    assert (
        predicted([(100, 200)]) == PoolBytes(int(SAFETY * device), int(SAFETY * pinned)) == PoolBytes(747_072, 252_000)
    )


def test_training_resizes_no_more_than_the_turned_crop_sees():
    config = PipelineConfig(image_size=64, augmentation=AugmentationConfig(rotation_degrees=0, scale_max=3.0))
    # (100, 200) at three times 0.32 would be (96, 192); the crop sees 64.
    decoded, between, resized = 60_000, 4 * 3 * 200 * 64, 3 * 64 * 64
    device = 3 * (decoded + between + resized + 2 * 3 * 4_096 + 4 * 3 * 4_096) + 2 * decoded
    assert predicted([(100, 200)], config, training=True, dtype=torch.float32).device == int(SAFETY * device)


def test_without_a_gpu_images_lie_in_ram_decoded_and_rendered():
    assert predicted([(100, 200)], on_gpu=False) == PoolBytes(int(SAFETY * 3 * (60_000 + 6_144)), 0)


def test_an_empty_set_takes_nothing():
    assert predicted(np.zeros((0, 2), np.int32)) == PoolBytes(0, 0)


def test_a_batch_is_of_the_largest_images():
    small, huge = (100, 200), (10_000, 10_000)
    with_huge = predicted([small, huge, small, small], batch_size=2)
    assert with_huge == predicted([huge, small], batch_size=2)
    assert with_huge.device > 3 * 3 * 10_000**2
    assert with_huge.device > 500 * predicted([small] * 4, batch_size=2).device
    assert predicted([small], batch_size=8) == predicted([small], batch_size=1)


def test_each_batch_prepared_ahead_takes_its_part():
    one, two, three = (
        predicted([(100, 200)], CONFIG.model_copy(update={"prefetch_queue_depth": depth})).device for depth in (1, 2, 3)
    )
    assert two > one
    assert three - two == pytest.approx(two - one, abs=1)


def test_nothing_is_made_or_given_back_without_a_gpu():
    assert memory.preallocate([PoolBytes(10**15, 10**15)], CPU) is False
    memory.release_unused(CPU)


def raised_by(function) -> BaseException:
    try:
        function()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def resized_by_dali():
    @pipeline_def(batch_size=1, num_threads=1, device_id=None)
    def pipeline():
        image = fn.external_source(source=lambda: [np.zeros((8, 8, 3), np.uint8)], batch=True, layout="HWC")
        return fn.resize(image, size=[4e6, 4e6])

    pipeline().run()


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda: torch.empty(2**50), Shortage("RAM", "torch", 2**52)),
        (lambda: np.empty(2**50), Shortage("RAM", "NumPy", 2**53)),
        (lambda: cv2.resize(np.zeros((4, 4, 3), np.uint8), (2 * 10**6,) * 2), Shortage("RAM", "OpenCV", 12 * 10**12)),
        (lambda: bytearray(2**60), Shortage("RAM", "Python", None)),
        (resized_by_dali, Shortage("RAM", "DALI", None)),
    ],
    ids=["torch", "numpy", "opencv", "python", "dali"],
)
def test_real_failures_of_ram_are_told(function, expected):
    assert shortage_of(raised_by(function)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has a total capacity of 8.00 GiB of which 1.00 GiB is free.",
            Shortage("GPU memory", "torch", 3 * 2**29),
        ),
        (
            "Critical error in pipeline:\nError in mixed operator `nvidia.dali.fn.decoders.image`\nencountered:\n\n"
            "Can't allocate 129499136 bytes on device 0.\nCurrent pipeline object is no longer valid.",
            Shortage("GPU memory", "DALI", 129_499_136),
        ),
        ("Critical error in pipeline:\nCan't allocate 4096 bytes on host.", Shortage("RAM", "DALI", 4096)),
        ("CUDA allocation failed", Shortage("GPU memory", "DALI", None)),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", Shortage("GPU memory", "cuDNN", None)),
        ("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED", Shortage("RAM", "cuDNN", None)),
        (
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
            Shortage("GPU memory", "CUDA's libraries", None),
        ),
        ("DataLoader worker (pid 12) is killed by signal: Killed. ", Shortage("RAM", "a worker process", None)),
    ],
)
def test_the_texts_of_libraries_are_told(text, expected):
    assert shortage_of(RuntimeError(text)) == expected


def test_what_dali_raises_while_it_builds_is_of_the_gpu():
    assert shortage_of(MemoryError("Can't allocate 4096 bytes on device 0.")) == Shortage("GPU memory", "DALI", 4096)
    assert shortage_of(OSError(12, "Cannot allocate memory")) == Shortage("RAM", "Python", None)


def test_other_errors_are_no_shortage():
    for error in (
        RuntimeError("nvImageCodec failure: '#4'"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        OSError(28, "No space left on device"),
        ValueError("MemoryError"),
        None,
    ):
        assert shortage_of(error) is None


def test_what_led_to_an_error_counts():
    outer = RuntimeError("the step failed")
    outer.__cause__ = MemoryError()
    assert shortage_of(outer) == Shortage("RAM", "Python", None)


class OneBatch:
    epoch = 0

    def __init__(self, sample: PlannedSample) -> None:
        self._sample = sample

    def __len__(self) -> int:
        return 1

    def batch(self, step: int) -> list[PlannedSample]:
        return [self._sample]


def test_a_failed_allocation_is_not_a_damaged_file(tmp_path, caplog):
    path = tmp_path / "sound.jpg"
    Image.fromarray(np.zeros((50, 60, 3), np.uint8)).save(path)
    region = np.array([0, 0, 60, 50], np.float32)
    too_large = PlannedSample(0, False, region, (2 * 10**6,) * 2, np.eye(3), np.eye(3), np.zeros((3, 4), np.float32))
    loader = DaliLoader([str(path)], CONFIG, training=False, batch_size=1, device=CPU)
    with pytest.raises(RuntimeError, match="you tried to allocate 12000000000000 bytes"):
        next(loader.batches(OneBatch(too_large)))
    assert loader.failures == {}
    assert "redoing" not in caplog.text


@pytest.mark.gpu
def test_pools_are_made_before_and_given_back_after():
    device = torch.device("cuda", 0)
    memory.release_unused(device)
    before = torch.cuda.mem_get_info(device)[0]
    assert memory.preallocate([PoolBytes(200_000_000, 1_000_000), PoolBytes(100_000_000, 1_000_000)], device)
    assert before - torch.cuda.mem_get_info(device)[0] >= 300_000_000
    memory.release_unused(device)
    assert torch.cuda.mem_get_info(device)[0] >= before - 10_000_000


@pytest.mark.gpu
def test_pools_that_cannot_be_made_end_no_run(caplog):
    assert not memory.preallocate([PoolBytes(1 << 50, 0)], torch.device("cuda", 0))
    assert "could not be made as large as planned" in caplog.text
