import numpy as np
import pytest
import torch

from dali_pipelines import memory
from dali_pipelines.config import AugmentationConfig, PipelineConfig
from dali_pipelines.memory import SAFETY, PoolBytes, pool_bytes

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


def test_training_resizes_only_what_the_rotated_crop_covers():
    config = PipelineConfig(image_size=64, augmentation=AugmentationConfig(rotation_degrees=0, scale_max=3.0))
    # (100, 200) scaled by 3 x 0.32 would be (96, 192); the crop covers 64.
    decoded, between, resized = 60_000, 4 * 3 * 200 * 64, 3 * 64 * 64
    device = 3 * (decoded + between + resized + 2 * 3 * 4_096 + 4 * 3 * 4_096) + 2 * decoded
    assert predicted([(100, 200)], config, training=True, dtype=torch.float32).device == int(SAFETY * device)


def test_a_perspective_resizes_more_for_what_it_enlarges():
    config = PipelineConfig(image_size=64, augmentation=AugmentationConfig(scale_max=3.0, perspective=0.1))
    magnification = 0.9**-1.5
    covered = np.ceil(np.sqrt(2) * 64 * magnification / 0.8**2)  # 166
    expected = [[96 * magnification, covered]]
    np.testing.assert_allclose(memory.largest_resized(np.array([[100.0, 200.0]]), config, training=True), expected)
    resized = expected[0]
    decoded, between = 60_000, 4 * 3 * max(100 * resized[1], 200 * resized[0])
    device = 3 * (decoded + between + 3 * resized[0] * resized[1] + 2 * 3 * 4_096 + 4 * 3 * 4_096) + 2 * decoded
    assert predicted([(100, 200)], config, training=True, dtype=torch.float32).device == int(SAFETY * device)


def test_without_a_gpu_decoded_and_rendered_images_are_counted():
    # Two batches that DALI prepares, and two in the rendering threads.
    assert predicted([(100, 200)], on_gpu=False) == PoolBytes(int(SAFETY * 4 * (60_000 + 6_144)), 0)


def test_without_a_gpu_huge_images_are_counted_as_decoded_alone():
    config = CONFIG.model_copy(update={"max_batch_megapixels": 0.08})
    # Each has more than an eighth of the pixels that are decoded at once: one in each of four batches, and two that follow alone.
    expected = PoolBytes(int(SAFETY * (4 * (60_000 + 6_144) + 2 * (60_000 + 6_144))), 0)
    assert predicted([(100, 200)] * 3, config, batch_size=3, on_gpu=False) == expected


def test_on_a_gpu_huge_images_are_counted_as_decoded_alone():
    limited = CONFIG.model_copy(update={"max_batch_megapixels": 0.08})
    each = 60_000 + 4 * 3 * 6_400 + 6_144 + 2 * 3 * 4_096
    device = (3 + 2) * each + 2 * 60_000
    pinned = (3 + 2) * 60_000 / 2 + 2 * 60_000
    expected = PoolBytes(int(SAFETY * device), int(SAFETY * pinned))
    assert predicted([(100, 200)] * 16, limited, batch_size=16) == expected


def test_on_a_gpu_a_batch_has_no_more_levels_than_are_decoded_at_once():
    limited = CONFIG.model_copy(update={"max_batch_megapixels": 0.2})  # ten images of 0.02 megapixels
    rest = 4 * 3 * 6_400 + 6_144 + 2 * 3 * 4_096
    device = 3 * (10 * 60_000 + 16 * rest) + 2 * 10 * 60_000
    assert predicted([(100, 200)] * 16, limited, batch_size=16).device == int(SAFETY * device)


def test_an_empty_set_needs_no_memory():
    assert predicted(np.zeros((0, 2), np.int32)) == PoolBytes(0, 0)


def test_a_batch_is_counted_with_the_largest_images():
    small, large = (100, 200), (7_000, 7_000)
    with_large = predicted([small, large, small, small], batch_size=2)
    assert with_large == predicted([large, small], batch_size=2)
    assert with_large.device > 3 * 3 * 7_000**2
    assert with_large.device > 500 * predicted([small] * 4, batch_size=2).device
    assert predicted([small], batch_size=8) == predicted([small], batch_size=1)


def test_each_prefetched_batch_adds_the_same_amount():
    one, two, three = (
        predicted([(100, 200)], CONFIG.model_copy(update={"prefetch_queue_depth": depth})).device for depth in (1, 2, 3)
    )
    assert two > one
    assert three - two == pytest.approx(two - one, abs=1)


def test_nothing_is_preallocated_or_released_without_a_gpu():
    assert memory.preallocate([PoolBytes(10**15, 10**15)], CPU) is False
    memory.release_unused(CPU)


@pytest.mark.gpu
def test_pools_are_preallocated_and_released():
    device = torch.device("cuda", 0)
    memory.release_unused(device)
    before = torch.cuda.mem_get_info(device)[0]
    assert memory.preallocate([PoolBytes(200_000_000, 1_000_000), PoolBytes(100_000_000, 1_000_000)], device)
    assert before - torch.cuda.mem_get_info(device)[0] >= 300_000_000
    memory.release_unused(device)
    assert torch.cuda.mem_get_info(device)[0] >= before - 10_000_000


@pytest.mark.gpu
def test_a_failed_preallocation_only_warns(caplog):
    assert not memory.preallocate([PoolBytes(1 << 50, 0)], torch.device("cuda", 0))
    assert "could not be preallocated" in caplog.text
