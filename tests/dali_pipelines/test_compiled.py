import threading

import pytest

from dali_pipelines.compiled import compiled, for_each


def test_compiles_where_nothing_can_be_kept_on_disk() -> None:
    # A function without a source file has no place for its cache, like one in a read-only folder without a home.
    namespace: dict = {}
    exec(compile("def twice(x):\n    return x + x", "<no file>", "exec"), namespace)
    assert compiled(namespace["twice"])(4) == 8


@pytest.mark.parametrize("num_threads", [1, 2, None])
def test_work_is_done_once_for_each(num_threads) -> None:
    done: list[int] = []
    for_each(5, done.append, num_threads)
    assert sorted(done) == [0, 1, 2, 3, 4]
    for_each(0, done.append, num_threads)
    assert len(done) == 5


def test_an_error_of_the_work_comes_out() -> None:
    with pytest.raises(ZeroDivisionError):
        for_each(2, lambda each: each // 0, 2)


def test_so_many_work_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=10)  # passed only by two at a time
    for_each(2, lambda _: both.wait(), 2)
