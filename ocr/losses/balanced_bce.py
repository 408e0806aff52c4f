"""Cross-entropy over the positives and the hardest negatives, without a host sync."""

import torch
import torch.nn.functional as F
from torch import Tensor

NUM_BINS = 2048
LOGIT_RANGE = 16.0


def hard_negative_weights(logits: Tensor, negatives: Tensor, num_hard: Tensor) -> Tensor:
    """Returns the weights of the `num_hard` negatives with the highest logits of each row, (R, N); 0 elsewhere.

    A histogram replaces the sort. Negatives above the bin of the last selected one keep their weight; those in that bin share the
    remainder. Where all weights are 1, a row sums to min(num_hard, number of negatives). Compared with an exact top-k, only the
    order within one bin (1/64 of a logit) is lost.

    Args:
        logits: (R, N) float32.
        negatives: (R, N), weights of the pixels that may be selected, else 0.
        num_hard: (R,), a number of pixels.
    """
    clipped = logits.clamp(-LOGIT_RANGE, LOGIT_RANGE)  # before the conversion: a huge number has no integer
    # The second clamp also gives a NaN a valid bin, so that the NaN reaches the loss.
    bins = ((clipped + LOGIT_RANGE) * (NUM_BINS / (2 * LOGIT_RANGE))).long().clamp(0, NUM_BINS - 1)
    counts = _counts_by_row(bins, negatives)
    above = counts.flip(1).cumsum(1).flip(1) - counts
    shares = ((num_hard.unsqueeze(1) - above) / counts.clamp(min=1)).clamp(0, 1)
    return shares.gather(1, bins) * negatives


def _counts_by_row(bins: Tensor, counted: Tensor) -> Tensor:
    """Returns how many counted elements of each row are in each bin, (R, NUM_BINS) float32, from one histogram of all rows."""
    num_rows = len(bins)
    first_of_row = torch.arange(num_rows, device=bins.device).unsqueeze(1) * NUM_BINS
    # histc ignores values outside its range, so everything that does not count becomes -1.
    values = torch.where(counted > 0, (bins + first_of_row).float() + 0.5, -1.0)
    return torch.histc(values, num_rows * NUM_BINS, 0, num_rows * NUM_BINS).reshape(num_rows, NUM_BINS)


def balanced_bce(logits: Tensor, target: Tensor, mask: Tensor, negative_ratio: float) -> Tensor:
    """Returns the mean cross-entropy over the positives and the hardest negatives of each row, (R,).

    Source: DBNet, arXiv 1911.08947, equation 7.

    Args:
        logits: (R, N) float32.
        target: (R, N), 1 in text, else 0.
        mask: (R, N), weight of each pixel: 1 or more, or 0 where a pixel is ignored.
        negative_ratio: number of negatives per positive, or per unit of weight of the positives. At least one pixel in 1,000 counts
            as positive here, so that a row without text has negatives too.
    """
    positives = target * mask
    negatives = (1 - target) * mask
    num_wanted = negative_ratio * torch.maximum(positives.sum(1), mask.sum(1) / 1000)
    with torch.no_grad():
        weights = positives + hard_negative_weights(logits, negatives, num_wanted)
    losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (losses * weights).sum(1) / weights.sum(1).clamp(min=1)
