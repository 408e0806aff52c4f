import pytest

from benchmarks.validation.host import HostTime, Row, host_table, time_host


def test_each_data_set_size_and_output_has_a_row(drawn):
    results = time_host([drawn], num_images=2, repeats=1, sizes=(320, 384), seconds=0.01)
    names = [(row["data"], row["size"], row["output"]) for row in results["rows"]]
    assert names == [("drawn", size, output) for size in (320, 384) for output in ("quad", "polygon")]
    for row in results["rows"]:
        assert row["regions"] > 0
        for part in ("polygons", "icdar", "cleval"):
            cpu_ms, held_ms = row[part]
            assert 0 <= held_ms <= cpu_ms * (1 + 1e-9)
    assert len(host_table(results).rows) == 4


def test_the_rate_is_limited_by_the_cores_or_by_the_gil():
    row = Row("receipts", 640, "quad", 50, HostTime(3.0, 0.25), HostTime(1.0, 0.0), HostTime(4.0, 0.75))
    assert row.images_per_second(with_cleval=False) == pytest.approx(16 / 4e-3)
    assert row.images_per_second(with_cleval=True) == pytest.approx(1 / 1e-3)
