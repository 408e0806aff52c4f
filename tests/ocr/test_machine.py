import psutil
import pytest

from ocr import machine


def test_free_and_total_memory_are_those_of_this_machine():
    assert 0 < machine.free_ram() <= machine.total_ram() <= psutil.virtual_memory().total
    assert 0 < machine.resident_set() < machine.total_ram()


@pytest.mark.parametrize(
    ("limit_file", "used_file"),
    [("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")],
    ids=["version 2", "version 1"],
)
def test_the_limit_of_a_control_group_is_respected(tmp_path, monkeypatch, limit_file, used_file):
    limit = tmp_path / limit_file
    limit.parent.mkdir(exist_ok=True)
    limit.write_text("50000000\n")
    (tmp_path / used_file).write_text("30000000\n")
    limit.with_name("memory.stat").write_text("anon 20000000\nactive_file 3000000\ninactive_file 7000000\n")
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    assert machine.total_ram() == 50_000_000
    assert machine.free_ram() == 27_000_000  # the cache of recently read files counts as free


def test_without_a_limit_the_memory_of_the_machine_is_reported(tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("3000000000\n")
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    assert machine.total_ram() == psutil.virtual_memory().total
    assert machine.free_ram() <= machine.total_ram()
