import pytest

from benchmarks.validation.host import HostTime, Row


def test_the_rate_is_limited_by_the_cores_or_by_the_gil():
    row = Row("receipts", 640, "quad", 50, HostTime(3.0, 0.25), HostTime(1.0, 0.0), HostTime(4.0, 0.75))
    assert row.images_per_second(with_cleval=False) == pytest.approx(16 / 4e-3)
    assert row.images_per_second(with_cleval=True) == pytest.approx(1 / 1e-3)
