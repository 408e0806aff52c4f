"""One byte a map pixel: what crosses from the device to the host instead of probabilities.

Levels 0..127 divide [0, bin_thresh] evenly and 128..255 the rest up to 1, so that "above the threshold" survives exactly.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Levels = npt.NDArray[np.uint8]

FIRST_TEXT_LEVEL = 128
"""Pixels of this level and above are text: their probability is above `bin_thresh`."""
NUM_STEPS = 127
"""From the lowest to the highest level on each side of the threshold."""


def to_levels(prob_maps: Tensor, bin_thresh: float) -> Tensor:
    """The levels of probabilities, on their device; no wait for it.

    A pixel is text where its probability as float32 is above `bin_thresh` as float32. Nothing is checked, since that would
    wait for the device: NaN and negative values become level 0 (surely no text), values above 1 become 255.

    Args:
        prob_maps: any shape and floating dtype, values in [0, 1].
        bin_thresh: in (0, 1).

    Returns:
        uint8 of the same shape.
    """
    prob_maps = prob_maps.detach().float()
    above = (prob_maps - bin_thresh).nan_to_num_(nan=-bin_thresh)
    below = above * (NUM_STEPS / bin_thresh)
    # Half a step is added, since the conversion to integers cuts off.
    below += FIRST_TEXT_LEVEL - 0.5
    above *= NUM_STEPS / (1 - bin_thresh)
    above += FIRST_TEXT_LEVEL + 0.5
    return torch.where(prob_maps > bin_thresh, above, below).clamp_(0, 255).to(torch.uint8)


def probabilities_of_levels(bin_thresh: float) -> npt.NDArray[np.float64]:
    """(256,) the probability that each level stands for.

    It is the middle of the level's range, so that rounding cancels out in a sum, except at the ends: there stand 0 and 1,
    where a trained network's pixels crowd.
    """
    below = np.arange(NUM_STEPS + 1) / NUM_STEPS * bin_thresh
    above = 1 - np.arange(NUM_STEPS + 1)[::-1] / NUM_STEPS * (1 - bin_thresh)
    # The two levels at the threshold round from one side only: their ranges are half as wide.
    below[-1] -= bin_thresh / (4 * NUM_STEPS)
    above[0] += (1 - bin_thresh) / (4 * NUM_STEPS)
    return np.concatenate([below, above])
