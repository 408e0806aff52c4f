import numba
import numpy as np

from benchmarks.validation.gil import GilWatch


@numba.njit(nogil=True)
def add_without_the_gil(numbers):
    for _ in range(10_000):
        for place in range(len(numbers)):
            numbers[place] = numbers[place] * 0.5 + 1


def test_python_code_holds_the_gil_and_compiled_code_releases_it():
    numbers = np.zeros(100_000)
    add_without_the_gil(numbers)  # compiles
    watch = GilWatch()
    python = watch.measure(lambda: sum(range(1_000_000)))
    assert python.held_ms > 0.9 * python.cpu_ms > 0
    released = watch.measure(lambda: add_without_the_gil(numbers))
    assert released.held_ms < 0.5 * released.cpu_ms
