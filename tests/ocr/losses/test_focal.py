import math

import pytest
import torch

from ocr.losses.focal import focal_loss

GAMMAS = (0.0, 0.5, 1.0, 2.0, 3.5)


def slow_focal_loss(logits, target, mask, gamma):
    """Returns the same loss pixel by pixel, from the probabilities of the paper's formula."""
    rows = []
    for of_row in zip(logits.tolist(), target.tolist(), mask.tolist(), strict=True):
        terms = []
        for logit, label, counts in zip(*of_row, strict=True):
            prob = 1 / (1 + math.exp(-logit))
            right = prob if label == 1 else 1 - prob
            terms.append(counts * -((1 - right) ** gamma) * math.log(right))
        rows.append(sum(terms) / max(sum(of_row[2]), 1))
    return torch.tensor(rows, dtype=logits.dtype)


def random_rows(num_pixels: int = 300) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns logits, target and mask of three rows in float64; the last row is wholly ignored."""
    generator = torch.Generator().manual_seed(0)
    shape = (3, num_pixels)
    logits = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    target, mask = ((torch.rand(shape, generator=generator) < share).double() for share in (0.2, 0.7))
    mask[2] = 0
    return logits, target, mask


@pytest.mark.parametrize("gamma", GAMMAS)
def test_the_focal_loss_is_that_of_the_papers_formula(gamma):
    logits, target, mask = random_rows()
    losses = focal_loss(logits, target, mask, gamma)
    torch.testing.assert_close(losses, slow_focal_loss(logits, target, mask, gamma), rtol=1e-10, atol=1e-12)
    assert losses[2] == 0


def test_the_focal_loss_of_a_case_worked_by_hand():
    logits = torch.tensor([[0.0, math.log(3.0), math.log(3.0), 9.0]])  # probabilities 1/2, 3/4, 3/4
    target, mask = torch.tensor([[1.0, 1.0, 0.0, 0.0]]), torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    terms = [0.5**2 * math.log(2), 0.25**2 * math.log(4 / 3), 0.75**2 * math.log(4)]
    assert focal_loss(logits, target, mask, 2.0).item() == pytest.approx(sum(terms) / 3)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_the_gradient_of_the_focal_loss_is_that_of_finite_differences(gamma):
    logits, target, mask = random_rows(num_pixels=12)
    assert torch.autograd.gradcheck(lambda x: focal_loss(x, target, mask, gamma), logits.requires_grad_())


@pytest.mark.parametrize("gamma", GAMMAS)
def test_huge_logits_have_a_finite_loss_and_gradient(gamma):
    logits = torch.tensor([[1e4, -1e4, 1e4, -1e4, 1e30, -1e30]], requires_grad=True)
    losses = focal_loss(logits, torch.tensor([[1.0, 1.0, 0.0, 0.0, 1.0, 0.0]]), torch.ones(1, 6), gamma)
    assert losses.item() == pytest.approx(2e4 / 6)
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    torch.testing.assert_close(gradient, torch.tensor([[0.0, -1.0, 1.0, 0.0, 0.0, 0.0]]) / 6)
