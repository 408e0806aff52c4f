"""The planner divides the free memory among the caches of the drawn data set."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dali_pipelines.config import PipelineConfig
from ocr.cache.budget import FreeMemory
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.plan import SamplePlanner
from ocr.datasets.schemas import CacheConfig, DatasetConfig
from ocr.loaders.config import DataLoaderConfig
from ocr.memory.plan import GPU, RAM, MemoryPlan, NetworkMemory
from ocr.memory.planner import RunData, plan_memory, preload_images

ENTRY_BYTES = (2 * 3 + 3 + 2) * 64 * 64
MAP_BYTES = 5 * 64 * 64


def validation_data(drawn: Path, split: dict | None = None, **cache) -> RunData:
    config = DatasetConfig(
        image_path=str(drawn / "images/val"),
        annotation_path=str(drawn / "jsons/val.json"),
        cache_config=CacheConfig(**({"cache_transformed_tensors": True} | cache)),
        **({"preload_images": True} | (split or {})),
    )
    dataset = ValidatedOCRDataset(config, SamplePlanner(PipelineConfig(image_size=64), training=False, seed=0))
    loading = DataLoaderConfig(eval_batch_size=2)
    return RunData(None, dataset, loading, loader="dali", val_targets=True, device=torch.device("cpu"))


def free_ram(num_bytes: int) -> MemoryPlan:
    return MemoryPlan(FreeMemory(gpu=0, ram=num_bytes))


def test_without_a_network_only_the_caches_are_planned(drawn):
    plan = free_ram(10**9)
    planned = plan_memory(plan, validation_data(drawn))
    assert [row.what for row in plan.rows] == [
        "validation: tensor cache, 8 images",
        "validation: preloaded image files",
    ]
    assert planned.pools == ()
    assert not plan.is_whole


def test_network_and_pools_claim_their_memory_before_the_caches(drawn):
    plan = free_ram(10**9)
    planned = plan_memory(plan, validation_data(drawn), NetworkMemory(weights=0, gradients=4, optimizer_state=8))
    assert [row.what.partition(":")[0] for row in plan.rows] == [
        "network",
        "network",
        "DALI",
        "validation",
        "validation",
    ]
    assert len(planned.pools) == 1
    assert plan.is_whole


@pytest.mark.parametrize(("num_ranks", "num_entries"), [(1, 8), (3, 3)])
def test_each_rank_plans_its_own_share(drawn, num_ranks, num_entries):
    plan = free_ram(10**9)
    data = replace(validation_data(drawn), rank=num_ranks - 1, num_ranks=num_ranks)
    planned = plan_memory(plan, data)
    assert planned.val_tiers.num_in_ram == num_entries
    assert list(planned.preloads[0].indices) == list(range(num_ranks - 1, 8, num_ranks))


def test_a_configured_budget_is_shared_by_the_caches_of_a_split_tensors_first(drawn):
    plan = free_ram(10**9)
    planned = plan_memory(plan, validation_data(drawn, ram_budget=8 * ENTRY_BYTES + 1000))
    assert planned.val_tiers.ram_bytes == 8 * ENTRY_BYTES
    assert planned.preloads[0].ram_budget == 1000
    assert plan.sum_of(RAM) == 8 * ENTRY_BYTES + 1000


@pytest.mark.parametrize(("loader", "where"), [("dali", GPU), ("torch", RAM)])
def test_decoded_images_are_planned_where_the_loader_keeps_them(drawn, loader, where):
    on_gpu = {"loader": loader, "device": torch.device("cuda", 0)}
    caches = {"cache_decoded_images": True, "device_budget": 8 * ENTRY_BYTES + 1000, "ram_budget": 2000}
    data = replace(validation_data(drawn, {"preload_images": False}, **caches), **on_gpu)
    plan = MemoryPlan(FreeMemory(gpu=10**9, ram=10**9), gpu_total=10**9)
    (preload,) = plan_memory(plan, data).preloads
    rest = 1000 if where == GPU else 2000  # the tensors have the other bytes of the GPU
    assert [(row.where, row.predicted) for row in plan.rows if "decoded" in row.what] == [(where, rest)]
    assert (preload.device.type == "cuda") == (where == GPU)
    assert (preload.device_budget, preload.ram_budget) == (1000, 2000)


def test_preloaded_images_stay_within_the_budget(drawn):
    data = validation_data(drawn)
    planned = plan_memory(free_ram(10**9), data)
    preload_images(planned.preloads[0])
    assert data.val.kept_images.num_images == 8
    preload_images(replace(planned.preloads[0], ram_budget=0))
    assert data.val.kept_images.num_images == 0


@pytest.mark.parametrize(
    ("split", "cache", "num_maps"),
    [
        ({}, {"cache_transformed_tensors": False}, 8),
        ({"preload_maps": True}, {"cache_transformed_tensors": False, "cache_maps": False}, 8),
        ({}, {"cache_transformed_tensors": False, "cache_maps": False}, 0),
        ({}, {}, 0),  # the tensor cache holds what is made of them
        ({"preload_maps": True}, {}, 8),
        ({}, {"ram_budget": 6 * ENTRY_BYTES + 1, "device_budget": 0}, 0),  # two wanted, but no room is left
        ({}, {"cache_transformed_tensors": False, "ram_budget": 3 * MAP_BYTES}, 3),
    ],
)
def test_maps_from_files_are_planned_with_their_bytes_in_ram(drawn, split, cache, num_maps):
    data = validation_data(drawn, {"preload_images": False, "load_maps": True} | split, **cache)
    plan = free_ram(10**9)
    planned = plan_memory(plan, data)
    (maps_bytes,) = [row.predicted for row in plan.rows if "maps" in row.what] or [0]
    assert maps_bytes // MAP_BYTES == num_maps
    preload_images(planned.preloads[0])
    assert data.val.offline_maps.budget == maps_bytes
