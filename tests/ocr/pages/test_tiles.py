import numpy as np
import pytest
import torch
from torch import nn

from ocr.pages.tiles import num_tiles, tiled_levels

REACH = 8


def small_network(map_stride: int) -> nn.Module:
    """A network with random weights that sees `REACH` pixels to each side at most."""
    torch.manual_seed(0)
    down = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())
    up = nn.Upsample(scale_factor=2) if map_stride == 1 else nn.Identity()
    return nn.Sequential(down, up, nn.Conv2d(4, 1, 1), nn.Hardsigmoid()).eval()


class Forward:
    """The network over images padded to the side of a tile, and the batches it got."""

    def __init__(self, network: nn.Module, side: int) -> None:
        self.network, self.side = network, side
        self.batches: list[list[tuple[int, ...]]] = []

    @torch.inference_mode()
    def __call__(self, images):
        self.batches.append([image.shape for image in images])
        batch = torch.zeros(len(images), 3, self.side, self.side)
        for slot, image in zip(batch, images, strict=True):
            slot[:, : image.shape[0], : image.shape[1]] = torch.from_numpy(image).permute(2, 0, 1) / 12
        return (self.network(batch)[:, 0] * 255).to(torch.uint8).numpy()


@pytest.mark.parametrize("map_stride", [1, 2])
@pytest.mark.parametrize("size", [(600, 333), (128, 500), (97, 64), (301, 128)])
def test_the_map_of_tiles_is_the_map_of_the_page_in_one_pass(size, map_stride):
    network = small_network(map_stride)
    page = np.random.default_rng(1).integers(0, 255, (*size, 3), np.uint8)
    tiles, whole = Forward(network, 128), Forward(network, 640)
    levels = tiled_levels(page, 128, map_stride, 3, tiles)
    height, width = (-(-length // map_stride) for length in size)
    assert levels.shape == (height, width)
    seen = whole([page])[0, :height, :width]
    # At the last pixels, a page that ends with a tile is padded by the network, and any other with black.
    inner = slice(0, -REACH)
    difference = levels[inner, inner].astype(int) - seen[inner, inner]
    assert abs(difference).max() <= 1  # sums of other lengths round differently
    assert levels.std() > 5


def test_no_batch_is_larger_than_the_batch_size_and_no_tile_than_its_side():
    forward = Forward(small_network(2), 64)
    tiled_levels(np.zeros((300, 200, 3), np.uint8), 64, 2, 4, forward)
    sizes = [shape for batch in forward.batches for shape in batch]
    assert len(sizes) == num_tiles((300, 200), 64, 2)
    assert max(len(batch) for batch in forward.batches) == 4
    assert max(max(shape) for shape in sizes) == 64
