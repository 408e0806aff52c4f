import cv2
import numpy as np
import pytest
import torch

from ocr.postprocess.levels import FIRST_TEXT_LEVEL, probabilities_of_levels, to_levels

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def soft_map(size, sigma=2.0):
    """Returns blurred noise, most of it near 0 and 1, like a network's output."""
    noise = np.random.default_rng(0).normal(size=size).astype(np.float32)
    return torch.from_numpy(1 / (1 + np.exp(-40 * cv2.GaussianBlur(noise, (0, 0), sigma))))


def test_levels_worked_by_hand():
    prob_map = torch.tensor([[0.0, 0.1, 0.25, 0.5], [0.5001, 0.75, 0.9, 1.0]])
    # 254 steps of 1/254: 0.1 is 25.4 steps, 0.25 63.5, 0.9 228.6; one level more above the threshold.
    assert to_levels(prob_map, 0.5).tolist() == [[0, 25, 64, 127], [128, 192, 230, 255]]
    assert to_levels(prob_map, 0.2)[0].tolist() == [0, 64, 128 + 8, 128 + 48]  # 0.1 of 0.2, 0.05 of 0.8, 0.3 of 0.8


@pytest.mark.parametrize("bin_thresh", [0.001, 0.2, 0.3, 0.5, 0.6, 0.999])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_threshold_stays_exact(bin_thresh, dtype):
    beside = torch.tensor(bin_thresh) + torch.arange(-1000, 1001) * torch.finfo(torch.float32).eps / 8
    prob_maps = torch.cat([beside, torch.rand(10_000, generator=torch.Generator().manual_seed(0))]).to(dtype)
    is_text = prob_maps.float().numpy() > np.float32(bin_thresh)
    assert 0 < is_text.sum() < len(is_text)
    np.testing.assert_array_equal(to_levels(prob_maps, bin_thresh).numpy() >= FIRST_TEXT_LEVEL, is_text)


@pytest.mark.parametrize("bin_thresh", [0.01, 0.3, 0.5, 0.9])
def test_the_probability_of_a_level_has_that_level(bin_thresh):
    probabilities = probabilities_of_levels(bin_thresh)
    assert probabilities.shape == (256,)
    assert (probabilities[0], probabilities[255]) == (0, 1)
    assert (np.diff(probabilities) > 0).all()
    np.testing.assert_array_equal(to_levels(torch.from_numpy(probabilities), bin_thresh).numpy(), np.arange(256))


@pytest.mark.parametrize("bin_thresh", [0.3, 0.5, 0.7])
def test_the_probability_of_a_level_is_the_mean_of_those_that_have_it(bin_thresh):
    prob_map = torch.linspace(0, 1, 1_000_001, dtype=torch.float64)
    levels = to_levels(prob_map, bin_thresh).numpy()
    means = np.bincount(levels, prob_map.numpy()) / np.bincount(levels)
    # The lowest and the highest level stand for 0 and 1.
    np.testing.assert_allclose(probabilities_of_levels(bin_thresh)[1:-1], means[1:-1], atol=1e-5)


@pytest.mark.parametrize("bin_thresh", [0.3, 0.5, 0.7])
def test_rounding_cancels_out_in_sums(bin_thresh):
    prob_map = torch.linspace(0.05, 0.95, 100_001)
    rounded = probabilities_of_levels(bin_thresh)[to_levels(prob_map, bin_thresh).numpy()]
    errors = rounded - prob_map.numpy()
    assert np.abs(errors).max() <= max(bin_thresh, 1 - bin_thresh) / 254 * 1.0001
    assert abs(errors.mean()) < 2e-5
    soft = soft_map((200, 200))
    rounded = probabilities_of_levels(bin_thresh)[to_levels(soft, bin_thresh).numpy()]
    assert abs((rounded - soft.numpy()).mean()) < 1e-4


def test_values_outside_0_to_1_get_the_nearest_level_and_nan_is_not_text():
    inf, nan = float("inf"), float("nan")
    levels = to_levels(torch.tensor([nan, -inf, -0.5, -0.0, 1.5, inf, -nan]), 0.3)
    assert levels.tolist() == [0, 0, 0, 0, 255, 255, 0]


@pytest.mark.parametrize("shape", [(0, 4, 4), (2, 0, 4), (3, 5, 7), (6,)])
def test_levels_are_uint8_in_the_shape_of_the_maps(shape):
    prob_maps = torch.rand(shape, requires_grad=True)
    before = prob_maps.detach().clone()
    levels = to_levels(prob_maps, 0.3)
    assert levels.shape == shape
    assert levels.dtype == torch.uint8
    assert not levels.requires_grad
    torch.testing.assert_close(prob_maps.detach(), before, rtol=0, atol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_gpu_levels_equal_cpu_levels_without_a_sync(dtype):
    prob_maps = torch.stack([soft_map((64, 96)), torch.rand(64, 96)]).to(dtype)
    on_device = prob_maps.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        levels = to_levels(on_device, 0.3)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = to_levels(prob_maps, 0.3)
    np.testing.assert_array_equal(levels.cpu() >= FIRST_TEXT_LEVEL, expected >= FIRST_TEXT_LEVEL)
    # A fused multiply-add may round a value halfway between two levels the other way.
    assert (levels.cpu().int() - expected.int()).abs().max() <= 1
