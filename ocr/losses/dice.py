"""Dice loss of a binary map or a probability map."""

from torch import Tensor


def dice_loss(prediction: Tensor, target: Tensor, mask: Tensor, eps: float = 1.0) -> Tensor:
    """Returns 1 - 2 |P T| / (|P| + |T|) over the masked pixels of each row, (R,); 0 if both are empty.

    Args:
        prediction, target: (R, N), 0 to 1.
        mask: (R, N), weight of each pixel, 0 where it is ignored.
        eps: added to numerator and denominator, so that an empty row gives 0 instead of 0 / 0.
    """
    overlap = (prediction * target * mask).sum(1)
    total = (prediction * mask).sum(1) + (target * mask).sum(1)
    return 1 - (2 * overlap + eps) / (total + eps)
