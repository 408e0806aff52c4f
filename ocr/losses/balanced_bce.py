"""Cross-entropy over the positives and the hardest negatives, three to one, without asking the device how many there are."""

import torch
import torch.nn.functional as F
from torch import Tensor

NUM_BINS = 2048
LOGIT_RANGE = 16.0


def hard_negative_weights(logits: Tensor, negatives: Tensor, num_hard: Tensor) -> Tensor:
    """Weights, 0 to 1 and of the shape of `logits`, that pick the `num_hard` negatives with the highest logits.

    A histogram replaces the sort: negatives above the bin that holds the last pick weigh 1, those in that bin share what is left.
    The weights sum to min(num_hard, number of negatives); against an exact top-k only the order within one bin, 1/64 of a logit
    wide, is lost.

    Args:
        logits: any shape, float32.
        negatives: the same shape, 1 where a pixel may be picked, else 0.
        num_hard: scalar tensor.
    """
    clipped = logits.clamp(-LOGIT_RANGE, LOGIT_RANGE)
    # histc leaves out what lies outside its range: the place of everything that is no negative.
    counted = torch.where(negatives > 0, clipped, torch.full_like(clipped, 2 * LOGIT_RANGE))
    counts = torch.histc(counted, NUM_BINS, -LOGIT_RANGE, LOGIT_RANGE)
    above = counts.flip(0).cumsum(0).flip(0) - counts
    shares = ((num_hard - above) / counts.clamp(min=1)).clamp(0, 1)
    bins = (
        ((clipped + LOGIT_RANGE) * (NUM_BINS / (2 * LOGIT_RANGE))).long().clamp(0, NUM_BINS - 1)
    )  # also of a NaN: the loss is to show it
    return shares[bins] * negatives


def balanced_bce(logits: Tensor, target: Tensor, mask: Tensor, negative_ratio: float) -> Tensor:
    """Mean cross-entropy over the positives and negative_ratio times as many of the hardest negatives (DBNet, equation 7).

    Args:
        logits: (B, H, W) float32.
        target: (B, H, W), 1 in text, else 0.
        mask: (B, H, W), 0 where a pixel does not count.
        negative_ratio: negatives a positive; with no positive in the batch as many negatives as one positive pixel in 1,000 gives.
    """
    positives = target * mask
    negatives = (1 - target) * mask
    num_positives = positives.sum()
    num_wanted = negative_ratio * torch.maximum(num_positives, mask.sum() / 1000)
    with torch.no_grad():
        weights = positives + hard_negative_weights(logits, negatives, num_wanted)
    losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (losses * weights).sum() / weights.sum().clamp(min=1)
