import numba
import numpy as np
import pytest

from benchmarks.host import timing


@numba.njit(nogil=True)
def add_without_the_gil(numbers):
    for _ in range(100):
        for place in range(len(numbers)):
            numbers[place] = numbers[place] * 0.5 + 1


def test_python_code_holds_the_gil_longer_than_compiled_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "GIL_SAMPLES", 200)
    numbers = np.zeros(100_000)
    add_without_the_gil(numbers)  # compiles
    python = timing.gil_share(lambda: sum(range(100_000)))
    compiled = timing.gil_share(lambda: add_without_the_gil(numbers))
    assert 0 <= compiled < python <= 1
