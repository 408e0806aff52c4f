"""Focal loss of the shrink map: pixels that are already right count little, so no selection of negatives is needed."""

import torch
import torch.nn.functional as F
from torch import Tensor


def focal_loss(logits: Tensor, target: Tensor, mask: Tensor, gamma: float) -> Tensor:
    """Returns the mean of -(1 - p)^gamma log(p) over the masked pixels of each row, (R,); 0 where the mask is empty.

    p is the probability that the map gives to the right class of a pixel. Source: arXiv 1708.02002, equation 4.

    Args:
        logits: (R, N) float32.
        target: (R, N), 1 in text, else 0.
        mask: (R, N), weight of each pixel, 0 where it is ignored.
        gamma: at least 0; 0 is the cross-entropy.
    """
    right = torch.where(target > 0.5, logits, -logits)
    # The logarithm of (1 - p) keeps the power and its gradient finite where p is 1.
    losses = torch.exp(gamma * F.logsigmoid(-right)) * -F.logsigmoid(right)
    return (losses * mask).sum(1) / mask.sum(1).clamp(min=1)
