"""NumPy's Philox4x64-10 in compiled code: the same numbers as `np.random.Generator`, for all samples of a batch at once.

Philox is counter-based (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011): each block of four numbers is a
function of a key and a counter, so that any sample's numbers can be computed without those of the others.
"""

import numpy as np
import numpy.typing as npt

from dali_pipelines.compiled import compiled

ORDER_STREAM, AUGMENTATION_STREAM, SELECTION_STREAM, BLOCK_STREAM, PERSPECTIVE_STREAM = 0, 1, 2, 3, 4
"""Purposes of random numbers."""
_NUM_ROUNDS = 10
_MULTIPLIER_0, _MULTIPLIER_2 = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
_KEY_STEP_0, _KEY_STEP_1 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B)
_HALF, _LOW_HALF = np.uint64(32), np.uint64(0xFFFFFFFF)
_UNUSED_BITS = np.uint64(11)
_ZERO, _ONE = np.uint64(0), np.uint64(1)


def generator(seed: int, epoch: int, sample_id: int, stream: int) -> np.random.Generator:
    """Returns the generator of random numbers for one purpose (`stream`), sample and epoch."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, 0, sample_id, stream]))


def random_doubles(
    key: tuple[int, int], sample_ids: npt.NDArray[np.int64], stream: int, count: int
) -> npt.NDArray[np.float64]:
    """Returns (B, count) uniform numbers in [0, 1).

    Row b holds the first numbers of `np.random.Generator(np.random.Philox(key, counter=[0, 0, sample_ids[b], stream])).random`.
    """
    doubles = np.empty((len(sample_ids), count))
    _fill(np.uint64(key[0]), np.uint64(key[1]), sample_ids.astype(np.uint64), np.uint64(stream), doubles)
    return doubles


@compiled
def _fill(
    key_0: np.uint64,
    key_1: np.uint64,
    sample_ids: npt.NDArray[np.uint64],
    stream: np.uint64,
    doubles: npt.NDArray[np.float64],
) -> None:
    for row in range(len(doubles)):
        counter_0 = _ZERO
        for first in range(0, doubles.shape[1], 4):
            counter_0 += _ONE  # NumPy counts before each block, the first one included
            block = _block(key_0, key_1, counter_0, sample_ids[row], stream)
            for offset in range(min(4, doubles.shape[1] - first)):
                doubles[row, first + offset] = (block[offset] >> _UNUSED_BITS) * (1.0 / 9007199254740992.0)


@compiled
def _block(
    key_0: np.uint64, key_1: np.uint64, counter_0: np.uint64, counter_2: np.uint64, counter_3: np.uint64
) -> tuple[np.uint64, np.uint64, np.uint64, np.uint64]:
    """Returns the four numbers of the counter (counter_0, 0, counter_2, counter_3)."""
    counter_1 = _ZERO
    for _ in range(_NUM_ROUNDS):
        high_0, low_0 = _product(_MULTIPLIER_0, counter_0)
        high_2, low_2 = _product(_MULTIPLIER_2, counter_2)
        counter_0, counter_1 = high_2 ^ counter_1 ^ key_0, low_2
        counter_2, counter_3 = high_0 ^ counter_3 ^ key_1, low_0
        key_0, key_1 = key_0 + _KEY_STEP_0, key_1 + _KEY_STEP_1
    return counter_0, counter_1, counter_2, counter_3


@compiled
def _product(a: np.uint64, b: np.uint64) -> tuple[np.uint64, np.uint64]:
    """Returns the upper and the lower 64 bits of the product."""
    a_high, a_low, b_high, b_low = a >> _HALF, a & _LOW_HALF, b >> _HALF, b & _LOW_HALF
    upper_cross = a_high * b_low + ((a_low * b_low) >> _HALF)
    lower_cross = a_low * b_high + (upper_cross & _LOW_HALF)
    return a_high * b_high + (upper_cross >> _HALF) + (lower_cross >> _HALF), a * b
