import os
import signal
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from dali_pipelines.normalize import ImageFinisher
from dali_pipelines.rendering import ImageArray
from dali_pipelines.source import PlannedBatch, PlannedSample
from dali_pipelines.threads import DecodedBatch, RenderingThreads

SIZE = 8


def batch(*indices: int) -> DecodedBatch:
    """Returns a batch of one-coloured images whose level is their index."""
    number = len(indices)
    samples = PlannedBatch(
        indices=np.array(indices),
        is_padding=np.zeros(number, bool),
        has_failed=np.zeros(number, bool),
        regions_xyxy=np.zeros((number, 4), np.float32),
        resized_sizes=np.zeros((number, 2), np.int64),
        input_from_resized=np.zeros((number, 3, 3)),
        input_from_original=np.zeros((number, 3, 3)),
        colour_matrices=np.zeros((number, 3, 4), np.float32),
    )
    return DecodedBatch([np.full((SIZE, SIZE, 3), index, np.uint8) for index in indices], samples)


def as_decoded(decoded: ImageArray, sample: PlannedSample) -> ImageArray:
    return decoded


def make_threads(render: Callable = as_decoded, num_threads: int = 4) -> RenderingThreads:
    finisher = ImageFinisher(SIZE, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), torch.uint8)
    return RenderingThreads(render, finisher, num_threads)


def levels_of(threads: RenderingThreads, batches: list[DecodedBatch]) -> list[list[int]]:
    """Returns the level of each image of each batch."""
    source = iter(batches)
    numbers_left = range(len(batches), 0, -1)
    return [threads.next_batch(lambda: next(source), left)[0][:, 0, 0, 0].tolist() for left in numbers_left]


def test_images_and_batches_keep_their_order_whichever_is_rendered_first():
    second_is_done = threading.Event()

    def render(decoded: ImageArray, sample: PlannedSample) -> ImageArray:
        if sample.index == 0:
            assert second_is_done.wait(10)  # every other image of both batches is rendered before the first one
        elif sample.index == 5:
            second_is_done.set()
        return decoded

    threads = make_threads(render)
    assert levels_of(threads, [batch(0, 1, 2), batch(3, 4, 5)]) == [[0, 1, 2], [3, 4, 5]]
    threads.release()


def test_no_more_batches_are_decoded_than_are_rendered_ahead():
    threads, num_decoded = make_threads(), 0

    def decode() -> DecodedBatch:
        nonlocal num_decoded
        num_decoded += 1
        return batch(num_decoded)

    found = [int(threads.next_batch(decode, left)[0][0, 0, 0, 0]) for left in (4, 3)]
    assert (found, num_decoded) == ([1, 2], 3)
    threads.next_batch(decode, 2)
    threads.next_batch(decode, 1)
    assert num_decoded == 4
    threads.release()


def failing_at(index: int) -> Callable[[ImageArray, PlannedSample], ImageArray]:
    def render(decoded: ImageArray, sample: PlannedSample) -> ImageArray:
        if sample.index == index:
            raise ValueError(f"image {index} is broken")
        return decoded

    return render


def test_an_error_in_a_thread_ends_only_its_batch():
    threads = make_threads(failing_at(4))
    batches = iter([batch(0, 1), batch(3, 4), batch(5)])
    assert threads.next_batch(lambda: next(batches), 3)[1].samples[1].index == 1
    with pytest.raises(RuntimeError, match="image 4 is broken") as caught:
        threads.next_batch(lambda: next(batches), 2)
    assert isinstance(caught.value.__cause__, ValueError)
    threads.release()


def test_a_decoding_error_comes_after_earlier_batches_and_nothing_is_decoded_later():
    def decode() -> Iterator[DecodedBatch]:
        yield batch(1)
        raise RuntimeError("no JPEG")

    threads, decoded = make_threads(), decode()
    assert threads.next_batch(lambda: next(decoded), 3)[1].samples[0].index == 1
    with pytest.raises(RuntimeError, match="no JPEG"):
        threads.next_batch(lambda: next(decoded), 2)
    threads.release()


def test_forgotten_batches_do_not_come_out():
    threads = make_threads()
    batches = iter([batch(0), batch(1)])
    threads.next_batch(lambda: next(batches), 2)
    threads.forget()
    assert levels_of(threads, [batch(7)]) == [[7]]
    threads.release()


def test_release_joins_the_threads_and_later_batches_start_new_ones():
    before = set(threading.enumerate())
    threads = make_threads()
    assert set(threading.enumerate()) == before
    for _ in range(2):
        assert levels_of(threads, [batch(1, 2, 3)]) == [[1, 2, 3]]
        assert set(threading.enumerate()) > before
        threads.release()
        assert set(threading.enumerate()) <= before


def test_a_forked_process_starts_threads_of_its_own():
    threads = make_threads(num_threads=1)
    assert levels_of(threads, [batch(1)]) == [[1]]
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # ends the child if it waits for a thread of its parent
        found = levels_of(threads, [batch(2, 3), batch(4)])
        threads.release()
        os._exit(0 if found == [[2, 3], [4]] else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert levels_of(threads, [batch(5)]) == [[5]]
    threads.release()
