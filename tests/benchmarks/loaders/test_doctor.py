"""The verdict, on figures made up so that its sentences are known."""

from typing import Any

import pytest

from benchmarks.loaders.config import CompareConfig, Level
from benchmarks.loaders.doctor import loader_stages, paste, recommended, verdict
from benchmarks.loaders.results import Measured, Results

MEGABYTE = 10**6


def measured(images_per_second: float, cpu_ms: float, cold: float | None = None, **stages: float) -> Measured:
    """Two rounds of 10 images; stages in ms an image."""

    def round_of(rate: float) -> dict[str, Any]:
        return {
            "images": 10,
            "all_images": 10,
            "seconds": 10 / rate,
            "wall_seconds": 10 / rate,
            "cpu_seconds": cpu_ms / 100,
            "read_bytes": 10 * MEGABYTE,
            "peak_memory": 0,
            "gpu_bytes": 0,
            "stages": {name: milliseconds / 100 for name, milliseconds in stages.items()},
        }

    return Measured(2, [round_of(images_per_second)] * 2, [] if cold is None else [round_of(cold)])


def results_of(levels: dict[Level, dict[str, Measured]], **environment: Any) -> Results:
    config = CompareConfig(device="cpu")
    return Results(
        levels=levels,
        environment={
            "command": ["scripts/compare_loaders.py", "data=upstage", "rounds=3", "only=[torch]", "hydra.run.dir=x"],
            "transfer_ms_per_megabyte": None,
            "device_type": "cpu",
            "gpu_bytes": None,
        }
        | environment,
        settings=config.model_dump(mode="json"),
        image_statistics={
            "images": 8,
            "coding": {"baseline": 6, "progressive": 2},
            "sampling": {"4:2:0": 7, "4:4:4": 1},
        },
        memory={
            "train_file_bytes": 8 * MEGABYTE,
            "train_decoded_bytes": 80 * MEGABYTE,
            "val_tensor_bytes": 10 * MEGABYTE,
            "free_gpu_bytes": 1000 * MEGABYTE,
            "free_ram_bytes": 1000 * MEGABYTE,
        },
    )


def told(results: Results) -> str:
    return "\n".join(verdict(results))


def test_a_network_that_is_the_limit_is_named():
    results = results_of({"train-step": {"replay": measured(10, 90), "torch": measured(9.8, 95)}})
    assert (
        "Training is limited by the network: a step takes 100.0 ms an image on a batch that is there already, and 102.0 ms with "
        "torch. A faster loader cannot help."
    ) in told(results)


def test_the_dearest_stage_of_a_loader_that_is_the_limit_is_named():
    results = results_of(
        {
            "decode": {"dali_cpu": measured(100, 9)},
            "input": {"dali_cpu": measured(80, 11)},
            "input+targets": {"dali_cpu": measured(20, 40)},
            "train-step": {"replay": measured(100, 10), "dali_cpu": measured(16, 50)},
        }
    )
    stages = loader_stages(results, next(iter([recommended(results)])) or pytest.fail("nothing recommended"))
    assert {name: round(value, 6) for name, value in stages.items()} == {
        "decode": 10.0,
        "resize and normalise": 2.5,
        "targets": 37.5,
    }
    assert (
        "Training waits 84% of its time for dali_cpu: 62.5 ms an image, of which the network takes 10.0. Most of what the loader "
        "does is: targets."
    ) in told(results)


def test_of_equally_fast_loaders_the_cheaper_one_is_recommended():
    results = results_of({"train-step": {"torch": measured(100, 9), "dali_cpu": measured(98, 5)}})
    row = recommended(results)
    assert row is not None
    assert row.name == "dali_cpu"
    results = results_of({"train-step": {"torch": measured(100, 9), "dali_cpu": measured(90, 5)}})
    row = recommended(results)
    assert row is not None
    assert row.name == "torch"


def test_what_a_run_cannot_train_with_is_not_recommended():
    assert (
        recommended(results_of({"input": {"spdl_scaled": measured(900, 1), "dali_tensors": measured(9000, 1)}})) is None
    )


def test_the_line_to_paste_keeps_the_users_overrides_and_drops_the_benchmarks():
    results = results_of({"input": {"torch": measured(100, 9)}})
    row = recommended(results)
    assert row is not None
    assert paste(results, row) == "data=upstage loader=torch performance=balanced dataloader.num_workers=2"
    results.environment["command"].append("dataset_base_path=/data/my receipts")
    assert "'dataset_base_path=/data/my receipts'" in paste(results, row)


@pytest.mark.parametrize(("gigabytes", "preset"), [(8, "constrained"), (12, "balanced"), (24, "max"), (141, "max")])
def test_the_preset_follows_the_gpus_memory(gigabytes, preset):
    on_gpu = {"device_type": "cuda", "gpu_bytes": gigabytes * 1e9, "transfer_ms_per_megabyte": 0.02}
    assert f"performance={preset} " in told(results_of({"input": {"dali_images": measured(100, 9)}}, **on_gpu))
    plain = "balanced" if preset == "max" else preset  # max keeps decoded images, which was not what was measured
    assert f"performance={plain} " in told(results_of({"input": {"dali_gpu": measured(100, 9)}}, **on_gpu))


def test_dali_on_the_cpu_is_not_recommended_beside_a_gpu():
    rows = {"dali_cpu": measured(900, 1), "dali_gpu": measured(100, 9)}
    row = recommended(results_of({"input": rows}, device_type="cuda", gpu_bytes=24e9))
    assert row is not None
    assert row.name == "dali_gpu"


def test_what_does_not_fit_into_memory_is_not_recommended():
    rows = {"torch": measured(100, 9), "dali_images": measured(900, 1)}
    results = results_of({"input": rows})
    row = recommended(results)
    assert row is not None
    assert row.name == "dali_images"
    results.memory["train_decoded_bytes"] = 600 * MEGABYTE
    row = recommended(results)
    assert row is not None
    assert row.name == "torch"


def test_a_plain_loader_is_preferred_to_one_that_fills_memory_and_is_hardly_cheaper():
    row = recommended(results_of({"input": {"torch": measured(100, 9), "torch_ram": measured(101, 8.5)}}))
    assert row is not None
    assert row.name == "torch"


def test_what_hardware_decode_leaves_is_counted():
    assert (
        "of this data set they leave to the processor: progressive 25.0%. It depends on the GPU whether they take: 4:4:4 12.5%."
    ) in told(results_of({"decode": {"torch": measured(1, 1)}}))


def test_a_better_rival_is_said():
    filtered, scaled = measured(60, 6), measured(100, 4)
    filtered.parity, scaled.parity = {"resize_filter": "antialiased bilinear"}, {"resize_filter": "DCT scaling"}
    text = told(
        results_of(
            {"input": {"torch": measured(50, 8), "torchvision": filtered, "spdl_scaled": scaled, "replay": scaled}}
        )
    )
    assert (
        "Processor time at input, ms an image: torch 8.00. The best of the others with an antialiased filter, torchvision: "
        "6.00; of all others, spdl_scaled: 4.00 (DCT scaling)."
    ) in text
    assert "By the clock spdl_scaled (DCT scaling) is 2.00 times as fast as torch." in text


def test_differences_within_the_spread_are_not_called_differences():
    noisy = measured(6, 95)
    noisy.rounds.append(measured(11, 95).rounds[0])  # 6, 6 and 11 images/s; the network alone: 10
    assert "as far as these rounds can tell" in told(
        results_of({"train-step": {"replay": measured(10, 90), "torch": noisy}})
    )


def test_of_loaders_whose_spreads_overlap_that_which_costs_less_by_itself_is_recommended():
    noisy = measured(8, 80)
    noisy.rounds.append(measured(9.5, 80).rounds[0])
    results = results_of(
        {
            "train-step": {"torch": measured(9, 80), "dali_cpu": noisy},
            "input": {"torch": measured(100, 5), "dali_cpu": measured(100, 4)},
        }
    )
    row = recommended(results)
    assert row is not None
    assert row.name == "dali_cpu"


def test_a_slow_disk_is_said_and_a_fast_one_too():
    assert "cost torch 50% of its speed" in told(results_of({"input": {"torch": measured(100, 9, cold=50)}}))
    assert "The disk does not matter" in told(results_of({"input": {"torch": measured(100, 9, cold=99)}}))
    kept = measured(100, 9, cold=99)
    kept.cold_rounds[0]["read_bytes"] = 0
    assert "What the disk costs is not known" in told(results_of({"input": {"torch": kept}}))


def test_the_disk_is_not_what_limits_training_on_files_in_ram():
    results = results_of(
        {
            "input": {"torch": measured(100, 9, cold=5)},
            "train-step": {"replay": measured(100, 1), "torch": measured(20, 9)},
        }
    )
    assert "Most of what the loader does is: decode, resize and normalise." in told(results)
    assert "get in each other's way" in told(results)


def test_what_limits_validation_is_said():
    waiting = measured(100, 9, forward=5, postprocess=12, blocked=4)
    assert "Validation waits 40% of its time for post-processing" in told(results_of({"val-epoch": {"torch": waiting}}))
    kept = measured(125, 9, forward=7.5, postprocess=1, blocked=0)
    text = told(results_of({"val-epoch": {"torch": measured(100, 9), "dali_tensors": kept}}))
    assert "finished tensors save 20% of the time from the second epoch on (10.0 -> 8.0 ms an image)" in text
    assert "Validation is limited by its forward pass (7.5 of 8.0 ms an image)" in text


def test_nothing_measured_gives_no_advice():
    text = told(results_of({"input": {"torch": Measured(reason="failed: broken")}}))
    assert "Paste" not in text
