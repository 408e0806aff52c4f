"""The samples of a training epoch in random order; with weights, some images more than once and others not at all.

Each data set draws for itself, so that its samples do not depend on the other sets. Its random numbers come from
`generator(seed, epoch, number of the set, ...)`: one for each listed image and each pass over the set, for the order; and one for
each listed image that selects those of the last, incomplete pass.
"""

import numpy as np
import numpy.typing as npt

from ocr.datasets.manifest import SET_SHIFT, Manifest, ManifestSet
from ocr.datasets.philox import BLOCK_STREAM, ORDER_STREAM, SELECTION_STREAM, generator

Indices = npt.NDArray[np.int64]
NUM_MIXED = 32
"""Number of blocks whose images are mixed, if images are shuffled in blocks."""


def epoch_order(manifest: Manifest, seed: int, epoch: int, block: int = 1) -> tuple[Indices, Indices]:
    """Returns the samples of a training epoch in order. There are as many as the manifest has images.

    Args:
        seed, epoch: key the random numbers.
        block: number of neighbouring images that are shuffled as one block; 1: each image by itself.

    Returns:
        positions in the manifest, and for each the number of the pass over its data set, from 0. The samples of an image that
        an epoch has more than once belong to different passes.
    """
    sets = manifest.sets or (ManifestSet("", len(manifest), manifest.num_listed),)
    first = 0
    indices, passes, keys = [], [], []
    for number, (part, count) in enumerate(zip(sets, sample_counts(sets), strict=True)):
        places = manifest.sample_ids[first : first + part.num_images] - (number << SET_SHIFT)
        own_indices, own_passes = _samples(part, places, count, seed, epoch, number)
        rng = generator(seed, epoch, number, ORDER_STREAM)
        # One key per listed image, skipped ones included: skipping an image does not change the order of the others.
        own_keys = rng.random((int(own_passes.max(initial=0)) + 1, part.num_listed))
        keys.append(own_keys[own_passes, places[own_indices]])
        indices.append(first + own_indices)
        passes.append(own_passes)
        first += part.num_images
    if block > 1:
        order = _order_of_blocks(sum(map(len, indices)), block, generator(seed, epoch, 0, BLOCK_STREAM))
    else:
        order = np.argsort(np.concatenate(keys), kind="stable")
    return np.concatenate(indices)[order], np.concatenate(passes)[order]


def _order_of_blocks(num_samples: int, block: int, rng: np.random.Generator) -> Indices:
    """Returns the order of samples whose blocks of neighbours are shuffled, and mixed `NUM_MIXED` at a time.

        blocks abc def ghi jkl, 2 mixed        ghi abc | jkl def -> g a h b i c | j d k e l f

    The samples of a block lie `NUM_MIXED` apart: each of 2, 4, ... 32 ranks gets whole blocks. The borders of the blocks move from
    epoch to epoch.
    """
    places = np.arange(num_samples, dtype=np.int64) + rng.integers(block)
    blocks, in_block = np.divmod(places, block)
    shuffled = rng.permutation(int(blocks.max(initial=0)) + 1)[blocks]
    return np.lexsort((shuffled % NUM_MIXED, in_block, shuffled // NUM_MIXED))


def sample_counts(sets: tuple[ManifestSet, ...]) -> list[int]:
    """Returns the number of samples of each set in an epoch. Their sum is the number of images."""
    if sets[0].weight is None:
        return [part.num_images for part in sets]
    weights = np.array([part.weight for part in sets], np.float64)
    exact = weights / weights.sum() * sum(part.num_images for part in sets)
    counts = np.floor(exact).astype(np.int64)
    num_missing = round(float(exact.sum())) - int(counts.sum())
    counts[np.argsort(counts - exact, kind="stable")[:num_missing]] += 1  # those with the largest remainders
    return counts.tolist()


def _samples(
    part: ManifestSet, places: Indices, count: int, seed: int, epoch: int, number: int
) -> tuple[Indices, Indices]:
    """Returns `count` samples of a set: whole passes over its images and a random part of one more.

    Args:
        places: position of each image among the listed ones.

    Returns:
        positions in the set, and the pass that each sample belongs to.
    """
    num_passes, num_more = divmod(count, part.num_images)
    indices = np.tile(np.arange(part.num_images, dtype=np.int64), num_passes)
    passes = np.repeat(np.arange(num_passes, dtype=np.int64), part.num_images)
    if num_more:
        keys = generator(seed, epoch, number, SELECTION_STREAM).random(part.num_listed)[places]
        chosen = np.sort(np.argsort(keys, kind="stable")[:num_more])
        indices = np.concatenate([indices, chosen])
        passes = np.concatenate([passes, np.full(num_more, num_passes)])
    return indices, passes
