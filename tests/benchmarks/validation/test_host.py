import pytest

from benchmarks.host import timing
from benchmarks.host.timing import HostTime
from benchmarks.validation.host import Row, host_table, time_host


def test_each_data_set_size_and_output_has_a_row(drawn, monkeypatch):
    monkeypatch.setattr(timing, "GIL_SAMPLES", 20)
    results = time_host([drawn], num_images=2, repeats=2, sizes=(320, 384))
    names = [(row["data"], row["size"], row["output"]) for row in results["rows"]]
    assert names == [(drawn.name, size, output) for size in (320, 384) for output in ("quad", "polygon")]
    for row in results["rows"]:
        assert row["regions"] > 0
        for part in ("polygons", "icdar", "cleval"):
            cpu_ms, held_ms = row[part]
            assert 0 <= held_ms <= cpu_ms
            assert cpu_ms > 0
        assert 0 < row["images_per_second_with_cleval"] <= row["images_per_second"]
    table = host_table(results)
    assert [len(cells) for cells in table.rows] == [len(table.columns)] * 4


def test_the_rate_is_limited_by_the_cores_or_by_the_gil():
    row = Row("receipts", 640, "quad", 50, HostTime(3.0, 0.25), HostTime(1.0, 0.0), HostTime(4.0, 0.75))
    assert row.images_per_second(with_cleval=False) == pytest.approx(16 / 4e-3)
    assert row.images_per_second(with_cleval=True) == pytest.approx(1 / 1e-3)


def test_a_gil_that_no_sample_found_held_leaves_the_limit_of_the_cores():
    free = HostTime(2.0, 0.0)
    row = Row("scenes", 640, "quad", 5, free, free, free)
    assert row.images_per_second(with_cleval=False) == pytest.approx(16 / 4e-3)
