"""Quantises probabilities to one byte per map pixel for the copy from the device to the host.

Levels 0..127 divide [0, bin_thresh] evenly and levels 128..255 the rest up to 1, so that "above the threshold" stays exact.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Levels = npt.NDArray[np.uint8]

FIRST_TEXT_LEVEL = 128
"""Lowest level of a text pixel, whose probability is above `bin_thresh`."""
NUM_STEPS = 127
"""Steps from the lowest to the highest level on each side of the threshold."""


def to_levels(prob_maps: Tensor, bin_thresh: float) -> Tensor:
    """Returns the levels of probabilities, on their device and without a host sync.

    A pixel is text if its probability as float32 is above `bin_thresh` as float32. Values are not checked, because a check would
    wait for the device: NaN and negative values become level 0 (no text), values above 1 become 255.

    Args:
        prob_maps: any shape and floating dtype, values in [0, 1].
        bin_thresh: in (0, 1).

    Returns:
        uint8 of the same shape.
    """
    prob_maps = prob_maps.detach().float()
    above = (prob_maps - bin_thresh).nan_to_num_(nan=-bin_thresh)
    below = above * (NUM_STEPS / bin_thresh)
    # Half a step is added because the conversion to integers truncates.
    below += FIRST_TEXT_LEVEL - 0.5
    above *= NUM_STEPS / (1 - bin_thresh)
    above += FIRST_TEXT_LEVEL + 0.5
    return torch.where(prob_maps > bin_thresh, above, below).clamp_(0, 255).to(torch.uint8)


def probabilities_of_levels(bin_thresh: float) -> npt.NDArray[np.float64]:
    """Returns (256,), the probability of each level.

    It is the middle of the level's range, so that rounding cancels out in a sum. The lowest and the highest level are exactly 0
    and 1, because most pixels of a trained network are there."""
    below = np.arange(NUM_STEPS + 1) / NUM_STEPS * bin_thresh
    above = 1 - np.arange(NUM_STEPS + 1)[::-1] / NUM_STEPS * (1 - bin_thresh)
    # The two levels next to the threshold round from one side only, so their ranges are half as wide.
    below[-1] -= bin_thresh / (4 * NUM_STEPS)
    above[0] += (1 - bin_thresh) / (4 * NUM_STEPS)
    return np.concatenate([below, above])
