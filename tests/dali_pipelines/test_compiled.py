import threading

import pytest

from dali_pipelines.compiled import compiled, for_each


def test_functions_compile_without_a_cache_on_disk() -> None:
    # A function without a source file cannot be cached, like one in a read-only folder of a user without a home.
    namespace: dict = {}
    exec(compile("def twice(x):\n    return x + x", "<no file>", "exec"), namespace)
    assert compiled(namespace["twice"])(4) == 8


@pytest.mark.parametrize("num_threads", [1, 2, None])
def test_each_number_is_processed_once(num_threads) -> None:
    done: list[int] = []
    for_each(5, done.append, num_threads)
    assert sorted(done) == [0, 1, 2, 3, 4]
    for_each(0, done.append, num_threads)
    assert len(done) == 5


def test_errors_in_threads_are_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        for_each(2, lambda each: each // 0, 2)


def test_num_threads_run_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=10)  # passed only by two at a time
    for_each(2, lambda _: both.wait(), 2)
