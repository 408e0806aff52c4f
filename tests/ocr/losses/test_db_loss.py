from itertools import product
from typing import get_args

import pytest
import torch
import torch.nn.functional as F

from ocr.losses.balanced_bce import balanced_bce, hard_negative_weights
from ocr.losses.config import LossConfig
from ocr.losses.db_loss import DBLoss
from ocr.losses.dice import dice_loss
from ocr.losses.focal import focal_loss
from ocr.models.db_head import DBMaps, TrainingMaps
from ocr.targets.target_maps import TargetMaps

SHRINK_LOSSES = get_args(LossConfig.model_fields["shrink_loss"].annotation)


def exact_balanced_bce(logits, target, mask, ratio):
    """Returns the same loss, computed by sorting."""
    losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    positives = (target * mask).bool()
    negatives = ((1 - target) * mask).bool()
    count = min(int(ratio * positives.sum()), int(negatives.sum()))
    hardest = losses[negatives].sort(descending=True).values[:count]
    return (losses[positives].sum() + hardest.sum()) / (positives.sum() + count)


def test_defaults_are_those_of_the_paper():
    config = LossConfig()
    assert (config.shrink_loss, config.per_image) == ("balanced_bce", False)
    assert (config.shrink_weight, config.binary_weight, config.thresh_weight) == (1, 1, 10)
    assert (config.negative_ratio, config.k) == (3, 50)


@pytest.mark.parametrize("share", [0.002, 0.05, 0.6])
def test_hard_negatives_by_histogram_agree_with_sorting(share):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 128 * 128, generator=generator) * 4 + torch.tensor([[-4.0], [0.0], [4.0]])
    target = (torch.rand(3, 128 * 128, generator=generator) < share).float()
    mask = (torch.rand(3, 128 * 128, generator=generator) < 0.9).float()
    expected = [exact_balanced_bce(*row, 3.0) for row in zip(logits, target, mask, strict=True)]
    torch.testing.assert_close(balanced_bce(logits, target, mask, 3.0), torch.stack(expected), rtol=2e-3, atol=0)


def test_weights_select_the_highest_logits_of_a_hand_worked_case():
    logits = torch.tensor([[3.0, -1.0, 2.0, 5.0, 0.5], [-3.0, 1e30, -99.0, 0.0, -3.5]])
    negatives = torch.tensor([[1.0, 1.0, 1.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0, 1.0]])  # the 5.0 is not a negative
    torch.testing.assert_close(
        hard_negative_weights(logits, negatives, torch.tensor([2.0, 3.0])),
        torch.tensor([[1.0, 0.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 1.0, 0.0]]),
    )


def test_only_negatives_within_a_64th_of_a_logit_share_the_remainder():
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(3, 5000, generator=generator)
    negatives = (torch.rand(3, 5000, generator=generator) < 0.8).float()
    num_hard = torch.tensor([0.5, 40.5, 2000.5])
    weights = hard_negative_weights(logits, negatives, num_hard)
    torch.testing.assert_close(weights.sum(1), num_hard)
    for row, weight, counts in zip(logits, weights, negatives.bool(), strict=True):
        shared = row[(weight > 0) & (weight < 1)]
        assert shared.max() - shared.min() <= 1 / 64
        assert row[counts & (weight == 0)].max() < row[weight > 0].min()


def test_equal_logits_share_the_selection():
    weights = hard_negative_weights(torch.zeros(1, 8), torch.ones(1, 8), torch.tensor([2.0]))
    torch.testing.assert_close(weights, torch.full((1, 8), 0.25))


def test_more_than_all_negatives_selects_all_of_them():
    negatives = torch.tensor([[1.0, 0.0, 1.0]])
    torch.testing.assert_close(hard_negative_weights(torch.randn(1, 3), negatives, torch.tensor([99.0])), negatives)


@pytest.mark.parametrize("shrink_loss", SHRINK_LOSSES)
def test_an_empty_mask_and_a_batch_without_text_give_finite_gradients(shrink_loss):
    for per_image, (mask_value, target_value) in product((False, True), ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0))):
        logits = torch.randn(2, 32, 32, requires_grad=True)
        thresh = torch.rand(2, 32, 32, requires_grad=True)
        full = torch.full((2, 32, 32), mask_value)
        targets = TargetMaps(torch.full((2, 32, 32), target_value), full, torch.rand(2, 32, 32), full)
        losses = DBLoss(LossConfig(per_image=per_image, shrink_loss=shrink_loss))(DBMaps(logits, thresh), targets)
        losses.total.backward()
        assert torch.isfinite(losses.total)
        assert torch.isfinite(logits.grad).all()
        assert torch.isfinite(thresh.grad).all()
        if mask_value == 0:
            assert losses.total == 0


def test_a_pixel_of_weight_two_counts_as_two_pixels():
    logits, target = torch.tensor([[0.3, -1.2, 0.9, -0.4]]), torch.tensor([[1.0, 0.0, 0.0, 1.0]])
    mask = torch.tensor([[2.0, 2.0, 1.0, 1.0]])
    twice = [torch.cat([row, row[:, :2]], dim=1) for row in (logits, target, torch.ones(1, 4))]
    # All negatives are selected, so that no choice among equal ones decides.
    weighted = balanced_bce(logits, target, mask, negative_ratio=10)
    torch.testing.assert_close(weighted, balanced_bce(*twice, negative_ratio=10))
    torch.testing.assert_close(focal_loss(logits, target, mask, 2.0), focal_loss(*twice, 2.0))
    torch.testing.assert_close(dice_loss(logits.sigmoid(), target, mask), dice_loss(twice[0].sigmoid(), *twice[1:]))


def test_without_text_the_hardest_of_a_thousand_pixels_of_the_mask_count():
    logits, mask = torch.linspace(-15.9, 15.9, 1000).repeat(2, 1), torch.ones(2, 1000)
    mask[1, 500:] = 0
    losses = balanced_bce(logits, torch.zeros(2, 1000), mask, negative_ratio=3)
    hardest = F.softplus(logits[0])
    expected = [hardest[-3:].mean(), (hardest[499] + hardest[498] / 2) / 1.5]  # 3 and 1.5 pixels
    torch.testing.assert_close(losses, torch.stack(expected))


def test_a_nan_reaches_the_loss_instead_of_crashing():
    # In float16 training the gradient scaler must see the NaN to skip the step.
    logits = torch.randn(2, 64)
    logits[0, 0] = float("nan")
    losses = balanced_bce(logits, torch.zeros(2, 64), torch.ones(2, 64), 3.0)
    assert torch.isnan(losses).tolist() == [True, False]


def test_dice_of_a_case_worked_by_hand():
    prediction, target = torch.tensor([[1.0, 0.5, 0.0]]), torch.tensor([[1.0, 1.0, 1.0]])
    mask = torch.tensor([[1.0, 1.0, 0.0]])
    # overlap 1.5, sums 1.5 + 2; eps 1 in numerator and denominator
    assert dice_loss(prediction, target, mask).item() == pytest.approx(1 - (3 + 1) / (3.5 + 1))


def test_threshold_loss_is_the_masked_mean_and_weights_add_up():
    maps = DBMaps(torch.full((1, 2, 2), -20.0), torch.tensor([[[0.5, 0.3], [0.9, 0.1]]]))
    thresh_mask = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
    zeros = torch.zeros(1, 2, 2)
    targets = TargetMaps(zeros, torch.ones(1, 2, 2), torch.full((1, 2, 2), 0.4), thresh_mask)
    losses = DBLoss(LossConfig(thresh_weight=7.0, shrink_weight=2.0, binary_weight=3.0))(maps, targets)
    assert losses.thresh.item() == pytest.approx(0.1)
    assert losses.total.item() == pytest.approx(
        2 * losses.shrink.item() + 7 * losses.thresh.item() + 3 * losses.binary.item(), rel=1e-5
    )


@pytest.mark.parametrize("shrink_loss", SHRINK_LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_huge_logits_under_autocast_give_the_float32_loss_and_finite_gradients(shrink_loss, dtype):
    loss, targets = DBLoss(LossConfig(shrink_loss=shrink_loss)), random_batch(2)[1]
    logits = (1e4 * torch.randn(2, 16, 24)).clamp(-1e4, 1e4).requires_grad_()
    maps = DBMaps(logits, torch.full((2, 16, 24), 0.5))
    with torch.autocast("cpu", dtype):
        total = loss(maps, targets).total
    assert total.dtype == torch.float32
    assert total == loss(maps, targets).total
    assert torch.isfinite(total)
    total.backward()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad.any()


def test_focal_dice_adds_the_dice_loss_of_the_probabilities_to_the_focal_loss():
    torch.manual_seed(0)
    maps, targets = random_batch(3)
    losses = DBLoss(LossConfig(shrink_loss="focal_dice", focal_gamma=1.5))(maps, targets)
    logits, target, mask = (
        values.reshape(1, -1) for values in (maps.prob_logits, targets.shrink_map, targets.shrink_mask)
    )
    expected = 5 * focal_loss(logits, target, mask, 1.5) + dice_loss(torch.sigmoid(logits), target, mask)
    torch.testing.assert_close(losses.shrink, expected.squeeze(0))
    other = DBLoss(LossConfig())(maps, targets)
    assert losses[2:] == other[2:]


def random_batch(num_images: int) -> tuple[DBMaps, TargetMaps]:
    """Returns maps and targets of images with 2 % to 60 % of text."""
    shares = torch.linspace(0.02, 0.6, num_images).reshape(-1, 1, 1)
    shape = (num_images, 16, 24)
    shrink_map, masks = (torch.rand(shape) < shares).float(), (torch.rand(2, *shape) < 0.8).float()
    return DBMaps(torch.randn(shape), torch.rand(shape)), TargetMaps(shrink_map, masks[0], torch.rand(shape), masks[1])


def test_the_parts_over_shrink_and_binary_map_use_the_mask_of_the_shrink_map_and_the_settings():
    torch.manual_seed(0)
    maps, targets = random_batch(3)
    losses = DBLoss(LossConfig(k=7, negative_ratio=1.5))(maps, targets)
    logits, thresholds, target, mask = (
        values.reshape(1, -1) for values in (*maps, targets.shrink_map, targets.shrink_mask)
    )
    torch.testing.assert_close(losses.shrink, balanced_bce(logits, target, mask, 1.5).squeeze(0))
    binary = torch.sigmoid(7 * (logits.sigmoid() - thresholds))
    torch.testing.assert_close(losses.binary, dice_loss(binary, target, mask).squeeze(0))


@pytest.mark.parametrize("shrink_loss", SHRINK_LOSSES)
def test_the_loss_per_image_is_the_mean_over_batches_of_one(shrink_loss):
    torch.manual_seed(0)
    maps, targets = random_batch(3)
    losses = DBLoss(LossConfig(per_image=True, shrink_loss=shrink_loss))(maps, targets)
    alone = [
        DBLoss(LossConfig(shrink_loss=shrink_loss))(
            DBMaps(*(values[i : i + 1] for values in maps)),
            TargetMaps(*(values[i : i + 1] for values in vars(targets).values())),
        )
        for i in range(3)
    ]
    torch.testing.assert_close(losses, type(losses)(*(torch.stack(parts).mean() for parts in zip(*alone, strict=True))))


@pytest.mark.parametrize("shrink_loss", SHRINK_LOSSES)
def test_the_loss_of_a_batch_is_that_of_one_image_with_all_its_pixels(shrink_loss):
    torch.manual_seed(0)
    per_image = DBLoss(LossConfig(per_image=True, shrink_loss=shrink_loss))
    maps, targets = random_batch(3)
    joined = DBMaps(*(values.reshape(1, 48, 24) for values in maps))
    joined_targets = TargetMaps(*(values.reshape(1, 48, 24) for values in vars(targets).values()))
    expected = per_image(joined, joined_targets)
    torch.testing.assert_close(DBLoss(LossConfig(shrink_loss=shrink_loss))(maps, targets), expected)
    assert (per_image(maps, targets).total - expected.total).abs() > 0.01


def test_an_auxiliary_head_adds_its_weighted_loss_to_the_total_only():
    torch.manual_seed(0)
    (maps, targets), (auxiliary, _) = random_batch(3), random_batch(3)
    loss = DBLoss(LossConfig(auxiliary_weight=0.3))
    both, alone, other = loss(TrainingMaps(maps, auxiliary), targets), loss(maps, targets), loss(auxiliary, targets)
    torch.testing.assert_close(both.total, alone.total + 0.3 * other.total)
    assert both[1:] == alone[1:]
