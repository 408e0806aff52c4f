"""Judgements and conclusions of a sweep, worked by hand."""

from collections.abc import Sequence

import pytest
from pydantic import ValidationError

from benchmarks.loaders.config import Level, training_overrides
from benchmarks.loaders.messages import Round
from benchmarks.loaders.results import Measurement
from benchmarks.sweep.config import SweepConfig
from benchmarks.sweep.factors import NO_GPU, Factor, Value, chosen_factors, factors_of, varied
from benchmarks.sweep.report import conclusions, sweep_report
from benchmarks.sweep.results import Combined, Sweep, Swept, gain, judged
from ocr.errors import InputError

THREADS = Factor("pipeline.num_threads", "input", 1, (2, 4))


def rates(*images_per_second: float, batch_ms: Sequence[Sequence[float]] | None = None) -> Measurement:
    """One round each, of 100 images; and its batches."""
    rounds = [Round(images=100, all_images=100, seconds=100 / rate) for rate in images_per_second]
    for round_, batches in zip(rounds, batch_ms or [], strict=False):
        round_.batch_seconds = [milliseconds / 1000 for milliseconds in batches]
    return Measurement(rounds=rounds)


def first_epochs(*seconds: float) -> Measurement:
    return Measurement(first_epoch_rounds=list(seconds), rounds=rates(*[100] * len(seconds)).rounds)


def sweep_of(*swept: Swept, combined: Sequence[Combined] = (), **settings: object) -> Sweep:
    return Sweep(
        list(swept),
        list(combined),
        environment={"command": ["scripts/sweep_defaults.py", "data=upstage", "rounds=5", "only=[compile]"]},
        settings={"combine": True} | settings,
    )


@pytest.mark.parametrize(
    ("present", "other", "expected"),
    [
        ((100, 104, 96), (120, 125, 115), "better"),
        ((100, 104, 96), (80, 84, 78), "worse"),
        ((100, 118, 96), (120, 125, 115), "no difference"),  # one round of the present value beats one of the other
        ((100, 100.5, 99.5), (102, 102.5, 101.5), "no difference"),  # ranges apart, but by only 2 %
        ((100, 104), (120, 125), "not judged"),
        ((100, 104, 96), (), "not judged"),
    ],
)
def test_value_is_better_only_if_no_round_says_otherwise(present, other, expected):
    assert judged(rates(*present), rates(*other), "images_per_second") == expected


def test_speed_is_the_ratio_of_the_medians():
    assert gain(rates(100, 50, 200), rates(125, 1, 300), "images_per_second") == pytest.approx(1.25)
    assert gain(first_epochs(2, 3, 4), first_epochs(1.5, 1, 9), "first_epoch_seconds") == pytest.approx(2)


def test_first_epoch_decides_for_a_setting_of_the_first_epoch():
    """Later epochs are equally fast in both."""
    present, other = first_epochs(2.0, 2.1, 2.2), first_epochs(1.5, 1.6, 1.4)
    assert judged(present, other, "first_epoch_seconds") == "better"
    assert judged(other, present, "first_epoch_seconds") == "worse"
    assert judged(present, other, "images_per_second") == "no difference"


def test_faster_value_with_a_longer_tail_is_judged_longer_waits():
    """PR 6366 of DALI: more work for the JPEG engines, and the slowest batches wait for them."""
    steady = [[10] * 98 + [12, 12]] * 3
    present = rates(100, 101, 99, batch_ms=steady)
    uneven = rates(120, 121, 119, batch_ms=[[8] * 98 + [30, 30]] * 3)
    assert present.batch_ms(0.5).median == pytest.approx(10)
    assert uneven.batch_ms(0.99).median == pytest.approx(30)
    assert judged(present, uneven, "images_per_second") == "longer waits"
    assert judged(present, rates(120, 121, 119, batch_ms=steady), "images_per_second") == "better"
    hardly = [[8] * 98 + [12.5, 12.5]] * 3  # 4 % longer
    assert judged(present, rates(120, 121, 119, batch_ms=hardly), "images_per_second") == "better"
    one_bad_round = [[8] * 100, [8] * 98 + [30, 30], [8] * 98 + [30, 30]]
    assert judged(present, rates(120, 121, 119, batch_ms=one_bad_round), "images_per_second") == "better"


def together(level: Level, values: dict[str, Value], present: Measurement, combined: Measurement) -> Combined:
    return Combined(level, present, combined, values)


def test_best_of_the_better_values_is_pasted_once_it_is_confirmed():
    swept = Swept(THREADS, rates(100, 101, 99), [(2, rates(120, 121, 119)), (4, rates(140, 141, 139))])
    values = {"pipeline.num_threads": 4}
    sweep = sweep_of(swept)
    assert sweep.recommended() == values
    assert sweep.confirmed() == {}
    assert conclusions(sweep)[-1].startswith("The better values are unconfirmed")
    sweep.combined = [together("input", values, rates(100, 101, 99), rates(130, 131, 129))]
    assert sweep.confirmed() == values
    assert conclusions(sweep)[-1] == "Paste: uv run scripts/train.py data=upstage pipeline.num_threads=4"


def test_values_refuted_together_are_not_pasted():
    swept = Swept(THREADS, rates(100, 101, 99), [(4, rates(140, 141, 139))])
    values = {"pipeline.num_threads": 4}
    for combined in (rates(101, 95, 108), rates(80, 81, 79)):
        sweep = sweep_of(swept, combined=[together("input", values, rates(100, 101, 99), combined)])
        assert sweep.confirmed() == {}
        assert conclusions(sweep)[-1].endswith("leave it as it is.")
    for combined in (rates(130, 131), Measurement(reason="failed: gone")):
        sweep = sweep_of(swept, combined=[together("input", values, rates(100, 101, 99), combined)])
        assert sweep.confirmed() == {}
        assert conclusions(sweep)[-1].endswith("not measured together, or not to the end.")


def test_value_whose_level_does_not_confirm_it_is_left_out():
    workers = Factor("postprocess.num_workers", "val-epoch", 1, (2,))
    better = rates(140, 141, 139)
    threads = Swept(THREADS, rates(100, 101, 99), [(4, better)])
    values: dict[str, Value] = {"pipeline.num_threads": 4, "postprocess.num_workers": 2}
    combined = [
        together("input", values, rates(100, 101, 99), rates(130, 131, 129)),
        together("val-epoch", values, rates(100, 101, 99), rates(101, 99, 102)),
    ]
    sweep = sweep_of(threads, Swept(workers, rates(100, 101, 99), [(2, better)]), combined=combined)
    assert sweep.recommended() == values
    assert sweep.confirmed() == {"pipeline.num_threads": 4}
    assert conclusions(sweep)[-2:] == [
        "Not confirmed together, so left out: postprocess.num_workers=2.",
        "Paste: uv run scripts/train.py data=upstage pipeline.num_threads=4",
    ]
    combined[1].combined = rates(80, 81, 79)
    assert sweep.confirmed() == {}


def test_pasted_line_has_only_arguments_of_a_training_run():
    command = ["x.py", "data=upstage", "++rounds=5", "only=[a]", "hydra.run.dir=y", "hydra/launcher=z", "-m", "+a.b=c"]
    assert training_overrides(command, SweepConfig) == ["data=upstage", "+a.b=c"]


def test_noise_is_not_recommended_and_a_loss_is_reported():
    swept = Swept(THREADS, rates(100, 130, 90), [(2, rates(125, 128, 122)), (4, rates(50, 51, 49))])
    sweep = sweep_of(swept)
    assert sweep.recommended() == {}
    assert conclusions(sweep) == [
        "pipeline.num_threads at input: 1 stays; no difference: 2 (1.25); worse: 4 (0.50).",
        "No other value is better: leave the configuration as it is.",
    ]


def test_value_that_costs_at_another_level_is_not_recommended():
    step = Factor("trainer.compile", "train-step", False, (True,))
    val = Factor("trainer.compile", "val-epoch", False, (True,))
    better = Swept(step, rates(100, 101, 99), [(True, rates(140, 141, 139))])
    worse = Swept(val, rates(100, 101, 99), [(True, rates(90, 91, 89))])
    same = Swept(val, rates(100, 101, 99), [(True, rates(100, 101, 99))])
    assert sweep_of(better, worse).recommended() == {}
    assert conclusions(sweep_of(better, worse))[-2:] == [
        "trainer.compile=true is better at train-step, but not wherever it acts: not recommended.",
        "Leave the configuration as it is.",
    ]
    assert sweep_of(better, same).recommended() == {"trainer.compile": True}


def test_shorter_first_epoch_need_not_show_in_later_ones():
    factor = Factor("pipeline.preallocate_decoder", "input", False, (True,), "first_epoch_seconds")
    swept = Swept(factor, first_epochs(2.0, 2.1, 2.2), [(True, first_epochs(1.5, 1.6, 1.4))])
    values = {"pipeline.preallocate_decoder": True}
    equal = together("input", values, rates(100, 101, 99), rates(100, 101, 99))
    assert sweep_of(swept, combined=[equal]).confirmed() == values
    assert "pipeline.preallocate_decoder=true" in conclusions(sweep_of(swept, combined=[equal]))[-1]


def test_value_that_changes_the_numbers_comes_with_a_caution():
    factor = Factor("trainer.precision", "train-step", "32-true", ("bf16-mixed",), caution="compare hmean")
    swept = Swept(factor, rates(100, 101, 99), [("bf16-mixed", rates(140, 141, 139))])
    assert "Before taking trainer.precision: compare hmean." in conclusions(sweep_of(swept, combine=False))


def test_no_measurement_gives_no_conclusion():
    for swept in (
        Swept(THREADS, Measurement(reason="failed: no memory"), [(2, Measurement())]),
        Swept(THREADS, rates(100, 101), [(2, rates(100))]),  # interrupted
    ):
        assert conclusions(sweep_of(swept))[-1] == "Nothing was measured that a conclusion could be drawn from."


def all_of(device_type: str, num_cores: int, **values: object) -> list[Factor]:
    config = SweepConfig.model_validate({"device": "cpu"} | values)
    return factors_of(config, device_type, "bf16-mixed", num_cores)


def test_gpu_varies_all_settings_with_values_that_a_run_accepts():
    present = {"pipeline": {"num_threads": 4}, "postprocess": {"num_workers": 4}}
    factors = all_of("cuda", 16, **present)
    assert all(factor.reason is None for factor in factors)
    assert sum(len(factor.values) for factor in factors) == 23
    config = SweepConfig.model_validate({"device": "cpu"} | present)
    for factor in factors:
        assert factor.present not in factor.values
        for value in factor.values:
            changed = varied(config, {factor.key: value}).model_dump()
            for part in factor.key.split("."):
                changed = changed[part]
            assert changed == value


def test_gpu_settings_have_a_reason_on_a_cpu():
    left_out = {factor.name: factor.reason for factor in all_of("cpu", 2) if factor.reason is not None}
    assert left_out == dict.fromkeys(("hw_decoder_load", "preallocate_decoder", "cuda_graphs"), NO_GPU)


def test_values_are_varied_around_the_configuration():
    factors = all_of("cuda", 8, pipeline={"num_threads": 8, "hw_decoder_load": 0.8}, postprocess={"num_workers": 0})
    by_name = {factor.name: factor for factor in factors}
    assert by_name["num_threads"].present == 8
    assert by_name["num_threads"].values == (1, 2, 4)
    assert by_name["hw_decoder_load"].values == (0.5, 0.65, 1.0)
    assert by_name["num_workers"].values == (1, 2, 4, 8)


def test_settings_are_chosen_by_name():
    factors = all_of("cuda", 2)
    assert [factor.level for factor in chosen_factors(factors, ("compile",))] == ["train-step", "val-epoch"]
    with pytest.raises(InputError, match=r"only=warp: no such setting; there are hw_decoder_load, num_threads"):
        chosen_factors(factors, ("compile", "warp"))


def test_value_in_conflict_with_others_is_refused():
    config = SweepConfig.model_validate({"device": "cpu", "pipeline": {"output_dtype": "float16"}})
    with pytest.raises(ValidationError, match="32-true needs"):
        varied(config, {"trainer.precision": "32-true"})


def test_two_rounds_are_refused():
    with pytest.raises(ValidationError, match="rounds"):
        SweepConfig.model_validate({"rounds": 2})


def test_report_shows_failures_losses_and_settings_not_varied():
    swept = Swept(THREADS, rates(100, 101, 99), [(2, rates(50, 51, 49)), (4, Measurement(reason="failed: gone"))])
    sweep = sweep_of(swept)
    sweep.not_varied = [Factor("trainer.cuda_graphs", "val-epoch", False, (True,), reason=NO_GPU)]
    sweep.environment |= {"device": "a CPU", "cores": 2, "ram_bytes": 8e9, "versions": {}, "started": "", "commit": ""}
    sweep.settings |= SweepConfig().model_dump(mode="json")
    text = sweep_report(sweep).markdown()
    assert "| 2 | 50.0 [49.0-51.0] | 0.50 | worse |" in text
    assert "- 4: failed: gone" in text
    assert f"- trainer.cuda_graphs at val-epoch: {NO_GPU}" in text
