import numpy as np
import pytest
import torch

from dali_pipelines.feed import BatchFeed, SampleArrays
from dali_pipelines.source import PlannedBatch, SourceImages

COLOURS = np.arange(12, dtype=np.float32).reshape(3, 4)


def planned(*indices: int) -> PlannedBatch:
    """Returns the same plan for each index."""
    num_samples = len(indices)
    return PlannedBatch(
        indices=np.array(indices),
        is_padding=np.zeros(num_samples, bool),
        has_failed=np.zeros(num_samples, bool),
        regions_xyxy=np.tile(np.array([1, 2, 30, 40], np.float32), (num_samples, 1)),
        resized_sizes=np.tile((8, 9), (num_samples, 1)),
        input_from_resized=np.tile(np.diag([2.0, 3.0, 1.0]), (num_samples, 1, 1)),
        input_from_original=np.tile(np.eye(3), (num_samples, 1, 1)),
        colour_matrices=np.tile(COLOURS, (num_samples, 1, 1)),
    )


class OneKept:
    """Keeps the content of image 0 and the pixels of image 1; image 2 cannot be read, and image 3 is wanted if there is one."""

    device = torch.device("cpu")

    def __init__(self, num_images: int = 3) -> None:
        self._num_images = num_images

    def encoded(self, index: int) -> np.ndarray | None:
        if index == 2:
            raise OSError("gone")
        return np.array([7, 7], np.uint8) if index == 0 else None

    def decoded(self, index: int) -> torch.Tensor | None:
        return torch.full((4, 5, 3), 9, dtype=torch.uint8) if index == 1 else None

    def wants(self, index: int) -> bool:
        return index == 3

    def wants_any(self) -> bool:
        return self._num_images > 3

    def keep(self, index: int, image: torch.Tensor) -> None:
        raise AssertionError("the feed only reads")


def test_training_arrays_worked_by_hand():
    (fields,) = SampleArrays(SourceImages(["a.jpg"]), training=True).for_batch(planned(0))
    path, start, end, size, stored, matrix, colours, offset = (field[0] for field in fields)
    assert bytes(path) == b"a.jpg"
    assert [start.tolist(), end.tolist(), size.tolist()] == [[2, 1], [40, 30], [8, 9]]
    assert (stored.tolist(), stored.dtype) == ([0, 0], np.int64)  # not known
    assert matrix.tolist() == [[2, 0, 0], [0, 3, 0]]
    assert colours.tolist() == COLOURS[:, :3].tolist()
    assert offset.tolist() == [3, 7, 11]
    assert {field.dtype for field in (start, end, size, matrix, colours, offset)} == {np.dtype(np.float32)}


def test_a_warp_in_perspective_is_fed_whole():
    arrays = SampleArrays(SourceImages(["a.jpg"]), training=True, in_perspective=True)
    (fields,) = arrays.for_batch(planned(0))
    assert fields[5][0].tolist() == [[2, 0, 0], [0, 3, 0], [0, 0, 1]]
    assert len(fields) == 8


def test_evaluation_arrays_have_no_warp_and_no_colours():
    images = SourceImages(["a.jpg", "b.jpg"], stored_sizes=np.array([[40, 30], [41, 31]], np.int32))
    (fields,) = SampleArrays(images, training=False).for_batch(planned(1))
    assert len(fields) == 5
    assert (fields[4].tolist(), fields[4].dtype) == ([[41, 31]], np.int64)


def test_kept_images_replace_files_and_unreadable_content_is_noted():
    arrays = SampleArrays(SourceImages(["a", "b", "c"], OneKept()), training=False)
    _, (content, is_encoded, is_decoded), (pixels,) = arrays.for_batch(planned(0, 1, 2))
    assert content[0].tolist() == [7, 7]
    assert [bool(flag) for flag in is_encoded] == [True, False, True]  # DALI fails on the placeholder for image 2
    assert [bool(flag) for flag in is_decoded] == [False, True, False]
    assert [image.shape for image in pixels] == [(1, 1, 3), (4, 5, 3), (1, 1, 3)]
    assert arrays.read_errors == {2: "gone"}


@pytest.mark.parametrize("num_images", [3, 4])
def test_the_graph_hands_out_images_if_one_of_them_is_wanted(num_images):
    arrays = SampleArrays(
        SourceImages([str(index) for index in range(num_images)], OneKept(num_images)), training=False
    )
    assert BatchFeed(arrays).for_graph().hands_out_images == (num_images == 4)


def test_large_images_and_those_beyond_the_limit_follow_alone():
    sizes = np.array([[10, 10], [40, 50], [10, 12], [100, 100], [10, 10]] + [[10, 12]] * 8)
    images = SourceImages([str(number) for number in range(13)], stored_sizes=sizes)
    batch = SampleArrays(images, training=False, max_pixels=1000).prepare(planned(*range(13)))
    assert batch.alone == [1, 3, 10, 11, 12]
    assert batch.rows == batch.fed.indices.tolist() == [0, 2, 4, 5, 6, 7, 8, 9]
    only_large = SampleArrays(images, training=False, max_pixels=1000).prepare(planned(1, 3))
    assert (only_large.rows, only_large.alone) == ([0], [1])  # DALI takes no empty batch


def test_sources_may_draw_batches_in_any_order_and_stop():
    feed = BatchFeed(SampleArrays(SourceImages(["a", "b"], OneKept()), training=False))
    sources = feed.for_graph()
    feed.start(iter([planned(0), planned(1)]), num_ahead=1)
    sources.next_pixels()
    sources.next_batch()
    sources.next_kept()
    (first,) = feed.pop().samples
    assert first.index == 0
    sources.next_batch()
    feed.stop()
    with pytest.raises(StopIteration):
        sources.next_batch()
