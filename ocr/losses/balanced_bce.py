"""Cross-entropy over the positives and the hardest negatives, without a host sync."""

import torch
import torch.nn.functional as F
from torch import Tensor

NUM_BINS = 2048
LOGIT_RANGE = 16.0


def hard_negative_weights(logits: Tensor, negatives: Tensor, num_hard: Tensor) -> Tensor:
    """Returns weights, 0 to 1, that select the `num_hard` negatives with the highest logits.

    A histogram replaces the sort. Negatives above the bin of the last selected one get weight 1; the negatives in that bin share
    the remainder. The weights sum to min(num_hard, number of negatives). Compared with an exact top-k, only the order within one
    bin (1/64 of a logit) is lost.

    Args:
        logits: any shape, float32.
        negatives: same shape, 1 where a pixel may be selected, else 0.
        num_hard: scalar tensor.
    """
    clipped = logits.clamp(-LOGIT_RANGE, LOGIT_RANGE)
    # histc ignores values outside its range, so everything that is not a negative is moved there.
    counted = torch.where(negatives > 0, clipped, torch.full_like(clipped, 2 * LOGIT_RANGE))
    counts = torch.histc(counted, NUM_BINS, -LOGIT_RANGE, LOGIT_RANGE)
    above = counts.flip(0).cumsum(0).flip(0) - counts
    shares = ((num_hard - above) / counts.clamp(min=1)).clamp(0, 1)
    # The clamp also gives a NaN a valid bin, so that the NaN reaches the loss.
    bins = ((clipped + LOGIT_RANGE) * (NUM_BINS / (2 * LOGIT_RANGE))).long().clamp(0, NUM_BINS - 1)
    return shares[bins] * negatives


def balanced_bce(logits: Tensor, target: Tensor, mask: Tensor, negative_ratio: float) -> Tensor:
    """Returns the mean cross-entropy over the positives and the hardest negatives (DBNet, arXiv 1911.08947, equation 7).

    Args:
        logits: (B, H, W) float32.
        target: (B, H, W), 1 in text, else 0.
        mask: (B, H, W), 0 where a pixel is ignored.
        negative_ratio: number of negatives per positive. At least one pixel in 1,000 counts as positive here, so that a batch
            without text has negatives too.
    """
    positives = target * mask
    negatives = (1 - target) * mask
    num_positives = positives.sum()
    num_wanted = negative_ratio * torch.maximum(num_positives, mask.sum() / 1000)
    with torch.no_grad():
        weights = positives + hard_negative_weights(logits, negatives, num_wanted)
    losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (losses * weights).sum() / weights.sum().clamp(min=1)
