"""Figures that meet what is asked pass; each that misses it is named."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.gpu_check import judges
from benchmarks.gpu_check.settings import CheckSettings

GPU = CheckSettings(output="-")

DECODE = {
    "images": 32,
    "rows": [
        {
            "sampling": "4:2:0",
            "fancy_upsampling": True,
            "hw_decoder_load": load,
            "mean_levels": 0.2,
            "max_levels": 5,
            "images_per_second": [100.0, 120.0],
        }
        for load in (0.0, 1.0)
    ],
}
TARGETS = {
    "size": 640,
    "way": "torch, cuda",
    "rows": [
        {
            "polygon_set": "words",
            "map_stride": 1,
            "images": 16,
            "polygons": 300,
            "milliseconds_per_image": {"reference": [100.0], "compiled": [2.0], "torch, cuda": [0.5]},
            "agreement": {"torch, cuda": {"box_pixels": 1000, "shrink_map_pixels": 1, "thresh_map_error": 1e-4}},
            "agrees": True,
            "times_faster": {"torch, cuda": 200.0},
        }
    ],
}
HOST_SYNC = {
    "first_steps": 3,
    "runs": [
        {"precision": "bf16-mixed", "steps": 37, "syncs": {}},
        {"precision": "16-mixed", "steps": 37, "syncs": {"scaler.py": 37}},
    ],
}
STREAMS = {
    "held_up_seconds": 0.01,
    "hold": 2,
    "cases": [
        {
            "case": "training",
            "hw_decoder_load": load,
            "steps": 200,
            "different_steps": [] if load == 0 else [3],
            "nan": [0, 0],
            "largest_difference_of_means": 0.001,
            "wait_seconds": {"synchronous": 0.002, "late": 0.003},
        }
        for load in (0.0, 0.65)
    ],
}
DAMAGED = {
    "damages": ["empty", "text"],
    "epochs": [
        {
            "epoch": epoch,
            "failed": [1, 2],
            "named": ["a.jpg", "b.jpg"],
            "expected": ["a.jpg", "b.jpg"],
            "lost": [],
            "others": 10,
            "most_mean_levels": 0.1,
        }
        for epoch in (0, 1)
    ],
    "exchanged_larger": {"lost": []},
    "exchanged_smaller": {"lost": []},
}
CACHES = {
    "speed": {
        "epochs": [{"val_seconds": 5.0}, {"val_seconds": 1.0}, {"val_seconds": 1.1}],
        "bare_forward_seconds": [0.5, 0.5, 0.5],
    },
    "settings": {
        "images": 32,
        "rows": {"no cache": [{"hmean": 0.9}] * 2, "float16": [{"hmean": 0.9003}] * 2},
        "bytes": {"float16": {"predicted": {"gpu": 10, "ram": 0}, "taken": {"gpu": 10, "ram": 0}}},
    },
}
AGREEMENT = {
    "results": [
        {"device": "gpu", "loader": "dali", "hmean": 0.9, "images": 32},
        {"device": "cpu", "loader": "dali", "hmean": 0.9019, "images": 32},
    ]
}
PRECISION = {
    "epochs": 20,
    "runs": [
        {"precision": precision, "seed": seed, "hmean": 0.9 + shift, "train_seconds": 10.0}
        for seed in (1, 2)
        for precision, shift in (("32-true", 0.0), ("16-mixed", 0.004), ("bf16-mixed", -0.004))
    ],
}
ROW = {"images_per_second": [10.0], "share_of_replay": None, "parity": None, "reason": None}
TRAIN_STEP = {
    "resnet18": {
        "levels": {
            "train-step": {
                "replay": ROW,
                "dali_gpu": ROW | {"share_of_replay": 0.9},
                "dali_images": ROW | {"share_of_replay": 0.98},
            }
        }
    }
}
LOADERS = {"levels": {"input": {"replay": ROW, "dali_gpu": ROW}}}
MEMORY = {
    "memory": "GPU",
    "before_bytes": 1_000_000,
    "peak_bytes": 9_000_000,
    "memory_plan": {"predicted_gpu_peak_bytes": 8_500_000},
}
RECEIPTS = {
    "strict_iou": 0.7,
    "summary": {"epochs": [{"hmean": 0.5, "hmean_iou0.7": 0.9}, {"hmean": 0.95, "hmean_iou0.7": 0.81}]},
}
GPU_TESTS: dict[str, Any] = {"passed": ["a"], "failed": {}, "skipped": {}}

MISSES: list[tuple[str, dict[str, Any], Callable[[dict[str, Any]], Any], str]] = [
    ("gpu_tests", GPU_TESTS, lambda f: f["failed"].update({"tests.x::test_y": "boom"}), "tests marked gpu"),
    ("gpu_tests", GPU_TESTS, lambda f: f["passed"].clear(), "tests marked gpu"),
    ("decode", DECODE, lambda f: f["rows"][1].update(mean_levels=0.6), "decode 4:2:0, fancy upsampling on"),
    ("decode", DECODE, lambda f: f["rows"][1].update(mean_levels=float("nan")), "decode 4:2:0, fancy upsampling on"),
    ("targets", TARGETS, lambda f: f["rows"][0]["times_faster"].update({"torch, cuda": 99.0}), "stride 1, speed"),
    ("targets", TARGETS, lambda f: f["rows"][0].update(agrees=False), "stride 1, error"),
    ("host_sync", HOST_SYNC, lambda f: f["runs"][0]["syncs"].update({"module.py": 1}), "bf16-mixed"),
    ("host_sync", HOST_SYNC, lambda f: f["runs"][0].update(steps=0), "bf16-mixed"),
    ("streams", STREAMS, lambda f: f["cases"][0].update(different_steps=[7]), "training, hw_decoder_load 0.0"),
    ("streams", STREAMS, lambda f: f["cases"][1].update(nan=[0, 1]), "training, hw_decoder_load 0.65"),
    ("streams", STREAMS, lambda f: f["cases"][0]["wait_seconds"].update(late=0.012), "while the stream is busy"),
    ("damaged", DAMAGED, lambda f: f["epochs"][1]["failed"].append(3), "epoch 1: lost and named"),
    ("damaged", DAMAGED, lambda f: f["epochs"][0]["named"].pop(), "epoch 0: lost and named"),
    ("damaged", DAMAGED, lambda f: f["epochs"][0].update(most_mean_levels=3.0), "epoch 0: the others"),
    ("damaged", DAMAGED, lambda f: f.pop("exchanged_smaller"), "a smaller one"),
    ("caches", CACHES, lambda f: f["speed"]["epochs"][2].update(val_seconds=1.6), "404 images"),
    ("caches", CACHES, lambda f: f["settings"]["rows"].update(uint8=[{"hmean": 0.8994}] * 2), "hmean, cache uint8"),
    (
        "caches",
        CACHES,
        lambda f: f["settings"]["rows"].update(float16=[{"hmean": 0.9}, {"hmean": float("nan")}]),
        "hmean, cache float16",
    ),
    (
        "caches",
        CACHES,
        lambda f: f["settings"]["bytes"]["float16"]["taken"].update(gpu=11),
        "bytes, cache float16",
    ),
    ("agreement", AGREEMENT, lambda f: f["results"][1].update(hmean=0.9021), "on GPU and CPU"),
    ("agreement", AGREEMENT, lambda f: [each.update(hmean=0.0) for each in f["results"]], "finds text"),
    ("agreement", AGREEMENT, lambda f: f["results"].pop(), "on GPU and CPU"),
    ("precision", PRECISION, lambda f: f["runs"][1].update(hmean=0.92), "trained in 16-mixed"),
    ("precision", PRECISION, lambda f: [run.update(hmean=0.1) for run in f["runs"]], "trained in 32-true"),
    (
        "train_step",
        TRAIN_STEP,
        lambda f: f["resnet18"]["levels"]["train-step"]["dali_images"].update(share_of_replay=0.96),
        "resnet18",
    ),
    ("loaders", LOADERS, lambda f: f["levels"]["input"].update(dali_gpu=ROW | {"reason": "failed: x"}), "DALI rows"),
    ("memory", MEMORY, lambda f: f.update(memory_plan=None), "peak of the GPU"),
    ("memory", MEMORY, lambda f: f.update(peak_bytes=10_000_000), "peak of the GPU"),
    ("receipts", RECEIPTS, lambda f: f["summary"]["epochs"][1].update(hmean=0.93), "IoU 0.5"),
    ("receipts", RECEIPTS, lambda f: f["summary"]["epochs"][1].update({"hmean_iou0.7": 0.79}), "IoU 0.7"),
]


@pytest.mark.parametrize(("name", "figures"), {name: figures for name, figures, *_ in MISSES}.items())
def test_figures_that_meet_what_is_asked_pass(name, figures):
    lines = getattr(judges, name)(figures, GPU)
    assert any(line.passed for line in lines)
    assert [line.what for line in lines if line.passed is False] == []


@pytest.mark.parametrize(("name", "figures", "spoil", "what"), MISSES)
def test_a_figure_that_misses_is_named(name, figures, spoil, what):
    spoiled = copy.deepcopy(figures)
    spoil(spoiled)
    (failed,) = (line for line in getattr(judges, name)(spoiled, GPU) if line.passed is False)
    assert what in failed.what
