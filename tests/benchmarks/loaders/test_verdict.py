"""The verdict on invented measurements whose sentences are known."""

from typing import Any

import pytest

from benchmarks.loaders.config import CompareConfig, Level
from benchmarks.loaders.messages import Round
from benchmarks.loaders.parity import Parity
from benchmarks.loaders.recommendation import overrides_text, recommended
from benchmarks.loaders.results import Measurement, Results
from benchmarks.loaders.verdict import loader_stages, verdict

MEGABYTE = 10**6


def measured(images_per_second: float, cpu_ms: float, cold: float | None = None, **stages: float) -> Measurement:
    """Returns two rounds of 10 images; stages are in ms per image."""

    def round_of(rate: float) -> Round:
        return Round(
            images=10,
            all_images=10,
            seconds=10 / rate,
            wall_seconds=10 / rate,
            cpu_seconds=cpu_ms / 100,
            read_bytes=10 * MEGABYTE,
            stages={name: milliseconds / 100 for name, milliseconds in stages.items()},
        )

    return Measurement(2, [round_of(images_per_second)] * 2, [] if cold is None else [round_of(cold)])


def filtered_by(resize_filter: str) -> Parity:
    return Parity(0, 0, None, None, True, "float32", resize_filter)


def results_of(levels: dict[Level, dict[str, Measurement]], **environment: Any) -> Results:
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


def recommended_name(results: Results) -> str | None:
    row = recommended(results)
    return row.name if row is not None else None


def told(results: Results) -> str:
    return "\n".join(verdict(results))


def test_network_as_the_limit_is_named():
    results = results_of({"train-step": {"replay": measured(10, 90), "torch": measured(9.8, 95)}})
    assert (
        "Training is limited by the network: a step takes 100.0 ms per image on a replayed batch, 102.0 ms with torch. A faster "
        "loader cannot help."
    ) in told(results)


def test_most_expensive_stage_of_a_limiting_loader_is_named():
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
        "Training waits 84% of its time for dali_cpu: 62.5 ms per image, 10.0 of them for the network. The most expensive stage "
        "of the loader: targets."
    ) in told(results)


def test_cheaper_of_two_equally_fast_loaders_is_recommended():
    results = results_of({"train-step": {"torch": measured(100, 9), "dali_cpu": measured(98, 5)}})
    assert recommended_name(results) == "dali_cpu"
    results = results_of({"train-step": {"torch": measured(100, 9), "dali_cpu": measured(90, 5)}})
    assert recommended_name(results) == "torch"


def test_a_level_that_was_interrupted_recommends_nothing():
    levels: dict[Level, dict[str, Measurement]] = {
        "input": {"torch": measured(100, 9), "dali_cpu": measured(200, 5)},
        "train-step": {"torch": measured(10, 90)},
    }
    results = results_of(levels)
    assert recommended_name(results) == "torch"  # all rows were measured, and one of them failed
    results.unfinished = "train-step"
    assert recommended_name(results) == "dali_cpu"
    assert "Interrupted at train-step, which therefore decides nothing." in told(results)
    results.unfinished, results.levels = "input", {"input": {"torch": measured(100, 9)}}
    assert recommended_name(results) is None


def test_rows_without_a_training_option_are_not_recommended():
    assert (
        recommended(results_of({"input": {"spdl_scaled": measured(900, 1), "dali_tensors": measured(9000, 1)}})) is None
    )


def test_pasted_line_keeps_overrides_of_the_run_only():
    results = results_of({"input": {"torch": measured(100, 9)}})
    row = recommended(results)
    assert row is not None
    assert overrides_text(results, row) == "data=upstage loader=torch performance=balanced dataloader.num_workers=2"
    results.environment["command"].append("dataset_base_path=/data/my receipts")
    assert "'dataset_base_path=/data/my receipts'" in overrides_text(results, row)
    results.environment["command"] += ["dataloader.num_workers=8", "pipeline.num_threads=4"]
    assert overrides_text(results, row).count("num_") == 1


@pytest.mark.parametrize(("gigabytes", "preset"), [(8, "constrained"), (12, "balanced"), (24, "max"), (141, "max")])
def test_the_preset_follows_the_gpus_memory(gigabytes, preset):
    on_gpu = {"device_type": "cuda", "gpu_bytes": gigabytes * 1e9, "transfer_ms_per_megabyte": 0.02}
    assert f"performance={preset} " in told(results_of({"input": {"dali_images": measured(100, 9)}}, **on_gpu))
    plain = "balanced" if preset == "max" else preset  # max keeps decoded images, which this row does not
    assert f"performance={plain} " in told(results_of({"input": {"dali_gpu": measured(100, 9)}}, **on_gpu))


def test_dali_on_the_cpu_is_not_recommended_beside_a_gpu():
    rows = {"dali_cpu": measured(900, 1), "dali_gpu": measured(100, 9)}
    assert recommended_name(results_of({"input": rows}, device_type="cuda", gpu_bytes=24e9)) == "dali_gpu"


def test_cache_larger_than_half_the_memory_is_not_recommended():
    rows = {"torch": measured(100, 9), "dali_images": measured(900, 1)}
    results = results_of({"input": rows})
    assert recommended_name(results) == "dali_images"
    results.memory["train_decoded_bytes"] = 600 * MEGABYTE
    assert recommended_name(results) == "torch"


def test_plain_loader_is_preferred_to_a_cache_that_is_hardly_cheaper():
    assert (
        recommended_name(results_of({"input": {"torch": measured(100, 9), "torch_ram": measured(101, 8.5)}})) == "torch"
    )


def test_images_left_by_hardware_decode_are_counted():
    assert (
        "leave to the processor, of this data set: progressive 25.0%. Whether they take these depends on the GPU: 4:4:4 12.5%."
    ) in told(results_of({"decode": {"torch": measured(1, 1)}}))


def test_better_rivals_are_reported_with_scaled_decoding_apart():
    filtered, scaled = measured(60, 6), measured(100, 4)
    filtered.parity, scaled.parity = filtered_by("antialiased bilinear"), filtered_by("DCT scaling")
    rows = {"torch": measured(50, 8), "torchvision": filtered, "spdl_scaled": scaled, "replay": scaled}
    text = told(results_of({"input": rows}))
    assert (
        "Processor time at input, whole decoding, ms per image: torch 8.00. Best rival, torchvision: 6.00 (antialiased bilinear)."
    ) in text
    assert "By the clock torchvision (antialiased bilinear) is 1.20 times as fast as torch." in text
    assert "scaled decoding" not in text
    text = told(results_of({"input": rows | {"dali_scaled": measured(101, 5)}}))
    assert (
        "Processor time at input, scaled decoding, ms per image: dali_scaled 5.00. Best rival, spdl_scaled: 4.00 (DCT scaling)."
    ) in text
    assert "spdl_scaled (DCT scaling) is" not in text


def test_overlapping_rounds_are_called_noise():
    noisy = measured(6, 95)
    noisy.rounds.append(measured(11, 95).rounds[0])  # 6, 6 and 11 images/s; the network alone: 10
    assert "as far as these rounds show" in told(
        results_of({"train-step": {"replay": measured(10, 90), "torch": noisy}})
    )


def test_cheaper_of_two_overlapping_loaders_is_recommended():
    noisy = measured(8, 80)
    noisy.rounds.append(measured(9.5, 80).rounds[0])
    results = results_of(
        {
            "train-step": {"torch": measured(9, 80), "dali_cpu": noisy},
            "input": {"torch": measured(100, 5), "dali_cpu": measured(100, 4)},
        }
    )
    assert recommended_name(results) == "dali_cpu"


def test_cost_of_the_disk_is_reported():
    assert "cost torch 50% of its speed" in told(results_of({"input": {"torch": measured(100, 9, cold=50)}}))
    assert "The disk does not matter" in told(results_of({"input": {"torch": measured(100, 9, cold=99)}}))
    kept = measured(100, 9, cold=99)
    kept.cold_rounds[0].read_bytes = 0
    assert "The cost of the disk is unknown" in told(results_of({"input": {"torch": kept}}))


def test_disk_does_not_limit_training_on_files_in_ram():
    results = results_of(
        {
            "input": {"torch": measured(100, 9, cold=5)},
            "train-step": {"replay": measured(100, 1), "torch": measured(20, 9)},
        }
    )
    assert "The most expensive stage of the loader: decode, resize and normalise." in told(results)
    assert "compete for the same cores" in told(results)


def test_limit_of_validation_is_reported():
    waiting = measured(100, 9, forward=5, postprocess=12, blocked=4)
    assert "Validation waits 40% of its time for post-processing" in told(results_of({"val-epoch": {"torch": waiting}}))
    kept = measured(125, 9, forward=7.5, postprocess=1, blocked=0)
    text = told(results_of({"val-epoch": {"torch": measured(100, 9), "dali_tensors": kept}}))
    assert "cached tensors save 20% of the time from the second epoch on (10.0 -> 8.0 ms per image)" in text
    assert "Validation is limited by its forward pass (7.5 of 8.0 ms per image)" in text


def test_no_measurement_gives_no_advice():
    text = told(results_of({"input": {"torch": Measurement(reason="failed: broken")}}))
    assert "Paste" not in text
