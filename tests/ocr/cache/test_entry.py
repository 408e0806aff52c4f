import pytest
import torch

from ocr.cache.entry import EntryLayout
from ocr.targets.target_maps import TargetMaps

LAYOUT = EntryLayout(input_size=64, map_size=32, image_dtype="float16")


def test_an_entry_has_the_bytes_of_its_tensors():
    assert LAYOUT.num_bytes == 3 * 64 * 64 * 2 + 3 * 32 * 32 + 32 * 32 * 2
    assert EntryLayout(64, None, "uint8").num_bytes == 3 * 64 * 64
    allocated = LAYOUT.allocate(5, "cpu")
    assert sum(tensor.nbytes for tensor in allocated.values()) == 5 * LAYOUT.num_bytes


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_packed_targets_come_back_and_images_are_in_planes(memory_format):
    images = torch.rand(2, 3, 64, 64).contiguous(memory_format=memory_format)
    in_bytes = [(torch.rand(2, 32, 32) > 0.5).float() for _ in range(3)]
    in_bytes[1] *= 255  # the largest weight of a text
    thresh_map = torch.rand(2, 32, 32)
    packed = LAYOUT.pack(images, TargetMaps(in_bytes[0], in_bytes[1], thresh_map, in_bytes[2]))
    for name, (shape, dtype) in LAYOUT.shapes.items():
        assert packed[name].shape == (2, *shape)
        assert packed[name].dtype == dtype
        assert packed[name].is_contiguous()
    assert torch.equal(packed["images"], images.half())
    found = LAYOUT.unpack_targets(packed)
    for maps, expected in zip((found.shrink_map, found.shrink_mask, found.thresh_mask), in_bytes, strict=True):
        assert torch.equal(maps.float(), expected)
    assert (found.thresh_map.float() - thresh_map).abs().max() < 2.5e-4
    assert found.shrink_map.data_ptr() == packed["byte_maps"].data_ptr()  # a view


def test_a_layout_without_maps_has_no_targets():
    layout = EntryLayout(64, None, "uint8")
    packed = layout.pack(torch.zeros(1, 3, 64, 64, dtype=torch.uint8), None)
    assert list(packed) == ["images"]
    assert layout.unpack_targets(packed) is None
