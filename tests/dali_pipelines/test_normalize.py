import tracemalloc

import numpy as np
import pytest
import torch

from dali_pipelines.config import PipelineConfig
from dali_pipelines.normalize import BatchMemory, ImageFinisher, normalize_levels

CONFIG = PipelineConfig()


def all_levels(batch: int = 2) -> torch.Tensor:
    """Returns (B, 3, 16, 16) with every level in every channel."""
    levels = torch.arange(256, dtype=torch.uint8).reshape(16, 16).expand(batch, 3, 16, 16)
    return torch.stack([image.roll(shift, 1) for shift, image in enumerate(levels)]).contiguous()


def exact(levels: torch.Tensor) -> np.ndarray:
    mean, std = (np.array(values)[:, None, None] for values in (CONFIG.mean, CONFIG.std))
    return (levels.numpy() - mean) / std


def test_levels_worked_by_hand():
    levels = torch.tensor([10, 20, 30], dtype=torch.uint8).reshape(1, 3, 1, 1)
    found = normalize_levels(levels, (10.0, 10.0, 10.0), (1.0, 5.0, 4.0))
    assert found.flatten().tolist() == [0.0, 2.0, 5.0]
    assert found.dtype == torch.float32


@pytest.mark.parametrize(("dtype", "numpy_dtype"), [(torch.float16, np.float16), (torch.float32, np.float32)])
@pytest.mark.parametrize("num_threads", [1, 2])
def test_each_level_is_the_exact_quotient_rounded_once(num_threads, dtype, numpy_dtype):
    levels = all_levels()
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        found = normalize_levels(levels, CONFIG.mean, CONFIG.std, dtype=dtype)
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(found.numpy(), exact(levels).astype(numpy_dtype))


def test_the_result_is_written_into_out():
    levels = all_levels()
    tensor = torch.full((4, 3, 16, 16), 9.0, dtype=torch.float16)
    found = normalize_levels(levels, CONFIG.mean, CONFIG.std, out=tensor[1:3])
    assert found.data_ptr() == tensor[1:3].data_ptr()
    assert torch.equal(found, normalize_levels(levels, CONFIG.mean, CONFIG.std, dtype=torch.float16))
    assert (tensor[[0, 3]] == 9).all()
    assert torch.equal(levels, all_levels())


def test_an_empty_batch_stays_empty():
    empty = torch.zeros((0, 3, 32, 32), dtype=torch.uint8)
    assert normalize_levels(empty, CONFIG.mean, CONFIG.std).shape == (0, 3, 32, 32)


@pytest.mark.parametrize(
    ("levels", "out", "message"),
    [
        (torch.zeros(1, 3, 4, 4), None, r"levels are torch.float32 of shape \(1, 3, 4, 4\)"),
        (
            torch.zeros(1, 4, 4, 3, dtype=torch.uint8),
            None,
            r"shape \(1, 4, 4, 3\); expected torch.uint8 \(B, 3, H, W\)",
        ),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.zeros(2, 3, 4, 4), r"out is torch.float32 of shape \(2, 3"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.zeros(1, 3, 4, 4).double(), "out is torch.float64"),
        (torch.zeros(1, 4, 4, 3, dtype=torch.uint8).permute(0, 3, 1, 2), None, "must be contiguous"),
    ],
)
def test_tensors_of_another_shape_type_or_layout_are_refused(levels, out, message):
    with pytest.raises(ValueError, match=message):
        normalize_levels(levels, CONFIG.mean, CONFIG.std, out=out)


def test_the_gpu_formula_promotes_uint8_and_rounds_to_the_type_of_out():
    """Runs the GPU's call on the CPU, in channels_last, so that its semantics are checked without a GPU."""
    levels = all_levels().to(memory_format=torch.channels_last)
    scale, offset = (
        torch.tensor(values, dtype=torch.float64).float()[:, None, None]
        for values in ([1 / s for s in CONFIG.std], [-m / s for m, s in zip(CONFIG.mean, CONFIG.std, strict=True)])
    )
    found = torch.addcmul(offset, levels, scale, out=torch.empty_like(levels, dtype=torch.float16))
    assert found.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal(found.numpy(), exact(levels).astype(np.float16))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_gpu_agrees_with_the_cpu(dtype):
    levels = all_levels()
    on_gpu = normalize_levels(levels.cuda(), CONFIG.mean, CONFIG.std, dtype=dtype).cpu()
    on_cpu = normalize_levels(levels, CONFIG.mean, CONFIG.std, dtype=dtype)
    torch.testing.assert_close(on_gpu, on_cpu, rtol=0, atol=2e-3 if dtype == torch.float16 else 5e-7)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_channels_last_levels_are_normalised_without_a_sync(dtype):
    """In channels_last, like a permuted (B, H, W, 3) batch. Tolerance: one ulp, since the fused formula rounds differently."""
    levels = all_levels()
    on_gpu = levels.permute(0, 2, 3, 1).contiguous().cuda().permute(0, 3, 1, 2)
    normalize_levels(on_gpu, CONFIG.mean, CONFIG.std, dtype=dtype)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = normalize_levels(on_gpu, CONFIG.mean, CONFIG.std, dtype=dtype)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert found.is_contiguous(memory_format=torch.channels_last)
    expected = normalize_levels(levels, CONFIG.mean, CONFIG.std, dtype=dtype)
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=2e-3 if dtype == torch.float16 else 5e-7)


def finisher(size: int = 40, dtype: torch.dtype = torch.float32) -> ImageFinisher:
    return ImageFinisher(size, CONFIG.mean, CONFIG.std, dtype)


@pytest.fixture
def odd_sizes() -> list[np.ndarray]:
    """Returns images of odd sizes; one is neither writable nor contiguous."""
    image = np.random.default_rng(0).integers(0, 256, (140, 110, 3), np.uint8)
    image.flags.writeable = False  # like pixels decoded by Pillow
    return [
        image[:40, :40].copy(),
        image[100:133, 100:107].copy(),
        image[:1, 50:90],
        image[60:61, 60:61].copy(),
    ]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.uint8])
@pytest.mark.parametrize("num_threads", [1, 2])
def test_images_are_normalised_and_padded_with_black(num_threads, dtype, odd_sizes):
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        found = finisher(dtype=dtype).finish(odd_sizes)
    finally:
        torch.set_num_threads(before)
    levels = torch.zeros((4, 3, 40, 40), dtype=torch.uint8)
    for padded, image in zip(levels, odd_sizes, strict=True):
        padded[:, : image.shape[0], : image.shape[1]] = torch.tensor(image).permute(2, 0, 1)
    expected = levels if dtype == torch.uint8 else normalize_levels(levels, CONFIG.mean, CONFIG.std, dtype=dtype)
    assert found.dtype == dtype
    assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.uint8])
def test_layouts_hold_the_same_numbers(dtype):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in ((40, 40), (33, 7), (1, 40))]
    in_planes = finisher(dtype=dtype).finish(images)
    in_pixels = ImageFinisher(40, CONFIG.mean, CONFIG.std, dtype, layout="HWC").finish(images)
    assert in_pixels.shape == (3, 3, 40, 40)
    assert in_pixels.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(in_pixels, in_planes)


def test_no_images_give_an_empty_batch():
    assert finisher().finish([]).shape == (0, 3, 40, 40)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            np.zeros((41, 4, 3), np.uint8),
            r"an image is uint8 of shape \(41, 4, 3\); expected uint8 \(H, W, 3\), H and W at most 40",
        ),
        (np.zeros((4, 4), np.uint8), r"shape \(4, 4\)"),
        (np.zeros((4, 4, 3), np.float32), "an image is float32"),
    ],
)
def test_images_of_another_shape_or_type_are_refused(image, message):
    with pytest.raises(ValueError, match=message):
        finisher().finish([image])


def test_memory_is_reused_only_when_no_tensor_refers_to_it():
    memory = BatchMemory()
    first = memory.empty((4, 3, 8, 8), torch.float32).fill_(1)
    view = first[2:]
    place = first.data_ptr()
    del first
    second = memory.empty((4, 3, 8, 8), torch.float32).fill_(2)
    assert (view == 1).all()
    assert second.data_ptr() != place
    del view
    third = memory.empty((5, 3, 8, 8), torch.float16)  # smaller, of another type
    assert third.data_ptr() == place
    assert third.shape == (5, 3, 8, 8)
    assert third.dtype == torch.float16
    del third
    assert memory.empty((9, 3, 8, 8), torch.float32).data_ptr() != place  # larger


def test_later_batches_do_not_overwrite_kept_ones(odd_sizes):
    made = finisher()
    batches = [made.finish([image]) for image in odd_sizes]
    copies = [batch.clone() for batch in batches]
    made.memory.release()
    for image in odd_sizes[::-1]:
        made.finish([image])
    assert all(torch.equal(batch, copy) for batch, copy in zip(batches, copies, strict=True))


def test_only_a_few_unused_blocks_are_kept():
    memory = BatchMemory()
    num_bytes = 3 * 512 * 512
    tracemalloc.start()
    try:
        held = [memory.empty((1, 3, 512, 512), torch.uint8) for _ in range(10)]
        assert tracemalloc.get_traced_memory()[0] > 10 * num_bytes
        del held
        left = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert 3 * num_bytes <= left < 3.5 * num_bytes
