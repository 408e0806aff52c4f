import pytest
import torch

from dali_pipelines.memory import PoolBytes
from ocr.cache.budget import FreeMemory, plan_tiers
from ocr.cache.entry import EntryLayout
from ocr.datasets.schemas import CacheConfig
from ocr.memory.plan import GPU, RAM, MemoryPlan, NetworkMemory, StepMemory

MB = 10**6
NETWORK = NetworkMemory(weights=100 * MB, gradients=100 * MB, optimizer_state=200 * MB)


def whole_plan(free_gpu: int, *, was_enough: bool = True) -> MemoryPlan:
    plan = MemoryPlan(FreeMemory(gpu=free_gpu * MB, ram=9_000 * MB), gpu_total=8_000 * MB)
    plan.add_network(NETWORK, StepMemory(2_000 * MB, 50 * MB, was_enough), (8, 4))
    plan.add_pools("training", PoolBytes(700 * MB, 90 * MB))
    plan.add_reserve()
    plan.is_whole = True
    return plan


def test_the_table_shows_each_part_and_whether_it_fits():
    plan = whole_plan(7_000)
    plan.add("validation: tensor cache, 404 images", GPU, 1_034 * MB, 2_000 * MB)
    lines = [" ".join(line.split()).strip("│┃ ") for line in plan.table().splitlines()]
    assert [line for line in lines if "│" in line] == [
        "network: weights │ GPU │ 100 MB",
        "network: gradients │ GPU │ 100 MB",
        "network: optimizer state │ GPU │ 200 MB",
        "network: training step, 8 images │ GPU │ 2,000 MB",
        "network: validation step, 4 images, extra │ GPU │ 50 MB",
        "DALI: training pipeline │ GPU │ 700 MB",
        "DALI: training pipeline │ pinned RAM │ 90 MB",
        "reserve: 10% of the GPU │ GPU │ 800 MB",
        "validation: tensor cache, 404 images │ GPU │ 1,034 MB │ 2,000 MB",
    ]
    assert lines[0] == "Planned memory of this process"
    assert lines[-1].startswith("GPU: 5.0 GB planned, 7.0 GB of 8.0 GB free: it fits. RAM: 0.1 GB planned, 9.0 GB of")
    assert max(map(len, plan.table().splitlines())) <= 120


def test_without_a_gpu_the_plan_is_of_ram_and_names_what_it_excludes():
    plan = MemoryPlan(FreeMemory(gpu=0, ram=9_000 * MB))
    plan.add_network(NETWORK, None, (8, 4))
    plan.add_pools("training", PoolBytes(700 * MB, 0))
    plan.add_reserve()
    plan.is_whole = True
    assert {row.where for row in plan.rows} == {RAM}
    assert plan.sum_of(RAM) == 1_000 * MB
    assert plan.verdict().startswith("RAM: 1.0 GB planned (excluding per-step temporaries), 9.0 GB of ")
    assert plan.as_summary()["predicted_gpu_peak_bytes"] is None
    assert plan.fits
    plan.num_ranks = 2
    assert plan.verdict().endswith(" free for each of 2 processes")


def num_cached_on_gpu(plan: MemoryPlan) -> int:
    layout = EntryLayout(input_size=640, map_size=640, image_dtype="float16")
    return plan_tiers(layout, 400, 4, CacheConfig(), torch.device("cuda", 0), plan.left).num_on_gpu


def test_caches_get_the_rest_and_are_the_first_to_shrink():
    assert num_cached_on_gpu(whole_plan(7_000)) == 400
    # The other parts need 3,950 MB; an entry has (3 * 2 + 3 + 2) * 640 * 640 bytes = 4.5056 MB, so nine tenths of 510 MB hold 101.
    tight = whole_plan(4_460)
    assert num_cached_on_gpu(tight) == 100
    assert tight.fits
    assert num_cached_on_gpu(whole_plan(3_950)) == 0


def test_the_plan_says_whether_it_fits():
    assert whole_plan(3_950).fits
    assert not whole_plan(3_949).fits
    assert "it does not fit" in whole_plan(3_949).verdict()
    failed = whole_plan(7_000, was_enough=False)
    assert not failed.fits
    assert "images (did not fit: needs more)" in failed.table()


def test_the_summary_has_rows_and_both_peaks():
    plan = whole_plan(7_000)
    plan.measured_gpu_peak = 3_000 * MB
    summary = plan.as_summary()
    assert summary["predicted_gpu_peak_bytes"] == 3_950 * MB
    assert summary["measured_gpu_peak_bytes"] == 3_000 * MB
    assert summary["rows"][0] == {
        "what": "network: weights",
        "where": "GPU",
        "predicted_bytes": 100 * MB,
        "budget_bytes": None,
    }


def test_a_run_that_uses_more_memory_than_planned_warns():
    plan = whole_plan(7_000)
    assert plan.warning() is None
    plan.measured_gpu_peak = 3_950 * MB
    assert plan.warning() is None
    plan.measured_gpu_peak = 4_300 * MB
    assert plan.warning() == (
        "memory: this run used up to 4.3 GB of GPU memory; the plan was 4.0 GB. Memory that other programs have taken meanwhile is "
        "included"
    )


@pytest.mark.gpu
def test_the_measured_peak_is_the_memory_in_use_on_the_device():
    device = torch.device("cuda", 0)
    torch.cuda.empty_cache()  # otherwise the block could come from memory that earlier tests have freed
    plan = MemoryPlan(FreeMemory.measured(device), gpu_total=torch.cuda.mem_get_info(device)[1])
    block = torch.empty(300 * MB, dtype=torch.uint8, device=device)
    plan.sample(device)
    del block
    torch.cuda.empty_cache()
    plan.sample(device)
    assert plan.measured_gpu_peak == pytest.approx(300 * MB, abs=30 * MB)
