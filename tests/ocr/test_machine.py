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


@pytest.mark.parametrize(
    ("root", "groups", "limit_file", "used_file"),
    [
        ("", "0::/system.slice/slurmstepd.scope/job_7/step_0\n", "memory.max", "memory.current"),
        (
            "memory",
            "3:cpu,cpuacct:/\n2:memory,hugetlb:/system.slice/slurmstepd.scope/job_7/step_0\n0::/\n",
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
        ),
    ],
    ids=["version 2", "version 1"],
)
def test_the_limits_of_a_job_and_of_the_groups_around_it_are_respected(
    tmp_path, monkeypatch, root, groups, limit_file, used_file
):
    job = tmp_path / root / "system.slice/slurmstepd.scope/job_7"
    step = job / "step_0"
    step.mkdir(parents=True)
    for group, limit, used in ((job, 50_000_000, 44_000_000), (step, 60_000_000, 30_000_000)):
        (group / limit_file).write_text(f"{limit}\n")
        (group / used_file).write_text(f"{used}\n")
    (tmp_path / "groups").write_text(groups)
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(machine, "PROCESS_GROUPS", tmp_path / "groups")
    assert machine.total_ram() == 50_000_000
    assert machine.free_ram() == 6_000_000
    (step / limit_file).write_text("20000000\n")
    assert machine.total_ram() == 20_000_000
    assert machine.free_ram() == 0  # more used than allowed


@pytest.mark.parametrize("groups", ["0::/../../other\n", "0::/not/mounted\n2:memory:/docker/abc\n", None])
def test_a_group_that_this_process_does_not_see_leaves_the_root(tmp_path, monkeypatch, groups):
    root, other = tmp_path / "a/b", tmp_path / "other"
    for group, limit in ((root, 50_000_000), (other, 10_000_000)):
        group.mkdir(parents=True)
        (group / "memory.max").write_text(f"{limit}\n")
    if groups is not None:
        (tmp_path / "groups").write_text(groups)
    monkeypatch.setattr(machine, "CGROUP", root)
    monkeypatch.setattr(machine, "PROCESS_GROUPS", tmp_path / "groups")
    assert machine.total_ram() == 50_000_000


def test_the_file_cache_of_the_groups_inside_counts_once(tmp_path, monkeypatch):
    (tmp_path / "memory").mkdir()
    for name, text in (
        ("memory.limit_in_bytes", "50000000"),
        ("memory.usage_in_bytes", "30000000"),
        ("memory.stat", "inactive_file 4000000\ntotal_inactive_file 7000000"),
    ):
        (tmp_path / "memory" / name).write_text(f"{text}\n")
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    assert machine.free_ram() == 27_000_000
