"""From the figures of a step to its lines: here stands all that is asked, once."""

from collections.abc import Iterable, Sequence
from math import isnan, nan
from statistics import mean
from typing import Any

from benchmarks.gpu_check.lines import Line, at_least, at_most, equal, mean_spread, spread, told
from benchmarks.gpu_check.settings import CheckSettings

Figures = dict[str, Any]

MOST_DECODE_LEVELS = 0.5
"""Mean difference of GPU and CPU pixels, fancy upsampling on. DALI's CPU decoder and Pillow agree in every pixel."""
LEAST_TIMES_FASTER = 100.0
"""Target maps on a GPU against the reference."""
MOST_SYNCS = {"bf16-mixed": 0, "32-true": 0}
"""In a training step. 16-mixed has that of its gradient scaler."""
MOST_OVERTAKING = 0.5
"""Of the time that the consumer's stream is held up, that handing out a batch may take longer for it."""
MOST_MEAN_DIFFERENCE = 0.01
"""Of a step's normalised images, where JPEG engines and CUDA cores share a batch: half a level."""
MOST_CACHE_DIFFERENCE = 0.0005
"""Of hmean with and without the cache."""
MOST_CACHED_SECONDS = 1.5
"""A validation epoch of 404 images, from epoch 1."""
MOST_DEVICE_DIFFERENCE = 0.002
"""Of hmean of a checkpoint on the GPU and on the CPU."""
MOST_PRECISION_DIFFERENCE = 0.005
"""Of mean hmean in mixed and in full precision."""
LEAST_FULL_PRECISION = 0.5
"""Mean hmean in full precision: with less there is nothing to compare."""
LEAST_SHARE_OF_REPLAY = 0.97
LEAST_RECEIPTS = {0.5: 0.94, 0.7: 0.80}
"""hmean at these IoU after eight minutes on one H200."""


def environment(figures: Figures, settings: CheckSettings) -> list[Line]:
    lines = [
        told(name, str(figures[key]), explained)
        for key, name, explained in (
            ("device", "device", "As torch names it, or the processor."),
            ("driver", "driver", "Of NVIDIA, by NVML."),
            ("driver_cuda", "CUDA of the driver", "The newest it can run, by NVML."),
            ("torch_cuda", "CUDA of torch", "The one it was built with."),
            ("dali_cuda", "CUDA of DALI", "The one it was built with."),
            ("nvjpeg", "nvJPEG", "Version of the library that DALI's GPU decoder opens."),
            ("cores", "processor cores", "That this process may use."),
            ("commit", "commit", "Of this checkout; -dirty: files differ from it."),
        )
        if key in figures
    ]
    if "jpeg_engines" in figures:
        engines = figures["jpeg_engines"]
        found = f"nvJPEG: {engines['nvjpeg']}; utilization by nvidia-smi: {engines['utilization']}"
        lines.append(told("JPEG engines", found, "nvjpegGetHardwareDecoderInfo of nvJPEG's hardware backend."))
    return lines


def gpu_tests(figures: Figures, settings: CheckSettings) -> list[Line]:
    failed = figures["failed"]
    return [
        Line(
            "tests marked gpu",
            f"{len(figures['passed'])} passed, {len(failed)} failed, {len(figures['skipped'])} skipped"
            + "".join(f"; FAILED {name}" for name in failed),
            "pytest -m gpu; those that were skipped stand with their reasons among the figures.",
            "none fails, one passes at least",
            not failed and bool(figures["passed"]),
        )
    ]


def decode(figures: Figures, settings: CheckSettings) -> list[Line]:
    lines = []
    groups: dict[tuple[str, bool], list[Figures]] = {}
    for row in figures["rows"]:
        groups.setdefault((row["sampling"], row["fancy_upsampling"]), []).append(row)
    for (sampling, fancy), rows in groups.items():
        speeds = ", ".join(
            f"{spread(row['images_per_second'], 0)}"
            + (f" at hw_decoder_load {row['hw_decoder_load']}" if "hw_decoder_load" in row else "")
            for row in rows
        )
        mean_levels, max_levels = (_largest(row[key] for row in rows) for key in ("mean_levels", "max_levels"))
        found = f"mean {mean_levels:.3f}, most {max_levels:.0f} levels; images/s {speeds}"
        what = f"decode {sampling}, fancy upsampling {'on' if fancy else 'off'}"
        explained = (
            f"{figures['images']} drawn pictures saved so and decoded by DALI on the "
            f"{'CPU' if settings.cpu else 'GPU'}, against {'Pillow' if settings.cpu else 'its CPU decoder'}; the worst mean, and "
            "the most of any value."
        )
        if fancy:
            limit = 0.0 if settings.cpu else MOST_DECODE_LEVELS
            lines.append(at_most(what, mean_levels, limit, explained, "levels in the mean", found))
        else:
            lines.append(told(what, found, explained))
    return lines


def targets(figures: Figures, settings: CheckSettings) -> list[Line]:
    lines, way = [], figures["way"]
    for row in figures["rows"]:
        what = f"targets: {row['polygon_set']}, stride {row['map_stride']}"
        agreement = row["agreement"][way]
        share = agreement["shrink_map_pixels"] / max(agreement["box_pixels"], 1)
        lines.append(
            Line(
                f"{what}, error",
                f"shrink map differs in {share:.4%} of its pixels, threshold map by at most {agreement['thresh_map_error']:.1e}",
                f"{row['polygons']} polygons of {row['images']} images made by {way} and the compiled path, against pyclipper.",
                "0.2 % and 0.01 at most, of both",
                bool(row["agrees"]),
            )
        )
        times, faster = row["milliseconds_per_image"], row["times_faster"][way]
        found = (
            f"{faster:.3g}x: {spread(times[way], 3)} ms an image, reference {spread(times['reference'])}; "
            f"compiled on one thread {spread(times['compiled'], 2)}"
        )
        explained = f"Time an image of {way} at {figures['size']} pixels beside the reference; median, least and most."
        asked = not settings.cpu and row["images"] > 1
        lines.append(
            at_least(f"{what}, speed", faster, LEAST_TIMES_FASTER, explained, "times the reference", found)
            if asked
            else told(f"{what}, speed", found, explained)
        )
    return lines


def host_sync(figures: Figures, settings: CheckSettings) -> list[Line]:
    lines = []
    for run in figures["runs"]:
        count, precision = sum(run["syncs"].values()), run["precision"]
        found = f"{count} in {run['steps']} steps" + "".join(f"; {place}: {n}" for place, n in run["syncs"].items())
        explained = f"The trainer's own run; all steps but the first {figures['first_steps']}, " + (
            "from batch to end of backward, watched for operations that would wait on a GPU."
            if settings.cpu
            else "from batch to optimizer, under torch.cuda.set_sync_debug_mode; with the line of this project and the innermost."
        )
        what = f"host waits in a training step, {precision}"
        if precision not in MOST_SYNCS:
            lines.append(told(what, found, explained + " The gradient scaler's own is known."))
        elif not run["steps"]:
            lines.append(Line(what, "no step was watched", explained, "0", False))
        else:
            lines.append(at_most(what, count, MOST_SYNCS[precision], explained, found=found))
    return lines


def streams(figures: Figures, settings: CheckSettings) -> list[Line]:
    lines, held_up = [], figures["held_up_seconds"]
    for case in figures["cases"]:
        what = f"late batches of {case['case']}" + (
            f", hw_decoder_load {case['hw_decoder_load']}" if not settings.cpu else ""
        )
        different, num_nan = case["different_steps"], sum(case["nan"])
        means = case["largest_difference_of_means"]
        found = f"{len(different)} of {case['steps']} steps differ, {num_nan} NaN, means by {means:.2g}"
        explained = (
            f"Batches looked at {figures['hold']} steps late, with freed memory overwritten"
            + ("" if settings.cpu else " and the consumer's stream held up")
            + ", against the same batches looked at at once: checksums of images and maps."
        )
        if case["hw_decoder_load"] in (0.0, 1.0):
            lines.append(Line(what, found, explained, "no step differs, no NaN", not different and not num_nan))
        else:
            passed = means <= MOST_MEAN_DIFFERENCE and not num_nan
            lines.append(
                Line(
                    what,
                    found,
                    explained,
                    f"means by {MOST_MEAN_DIFFERENCE} at most (two decoders share a batch), no NaN",
                    passed,
                )
            )
        if not settings.cpu:
            waits = case["wait_seconds"]
            longer = (waits["late"] - waits["synchronous"]) / held_up
            lines.append(
                at_most(
                    f"{what}: handed out while the stream is busy",
                    longer,
                    MOST_OVERTAKING,
                    f"Host time of a batch with the consumer's stream held up for {1000 * held_up:.0f} ms before each, less that "
                    "without, as a share of it; 1: handing out a batch waits for the consumer's work.",
                    found=f"{longer:.2f}: {1000 * waits['late']:.1f} ms, at rest {1000 * waits['synchronous']:.1f} ms",
                )
            )
    return lines


def damaged(figures: Figures, settings: CheckSettings) -> list[Line]:
    lines = []
    for epoch in figures["epochs"]:
        named = epoch["named"] == epoch["expected"] and len(epoch["failed"]) == len(epoch["expected"])
        what = f"damaged files, epoch {epoch['epoch']}"
        lines.append(
            Line(
                f"{what}: lost and named",
                f"{len(epoch['failed'])} slots, {len(epoch['named'])} named",
                f"Files made {', '.join(figures['damages'])} after the audit, in the training graph.",
                f"{len(epoch['expected'])}, by their names",
                named,
            )
        )
        limit = 0.0 if settings.cpu else MOST_DECODE_LEVELS
        most = nan if epoch["most_mean_levels"] is None else epoch["most_mean_levels"]
        lines.append(
            Line(
                f"{what}: the others",
                f"{len(epoch['lost'])} of {epoch['others']} lost; {most:.3g} levels away at most",
                "The sound images of the same batches against a run before the damage: mean difference of an image.",
                f"none lost, {limit:g} levels at most",
                not epoch["lost"] and most <= limit,
            )
        )
    for name in ("larger", "smaller"):
        if not settings.cpu and len(figures["epochs"]) == 2:
            found = figures.get(f"exchanged_{name}")
            lines.append(
                Line(
                    f"a picture exchanged for a {name} one",
                    "the process ended, or the time" if found is None else f"{len(found['lost'])} others lost",
                    "After the audit; DALI's GPU resize does not look at sizes, so its slot may hold a wrong picture.",
                    "the run goes on, no other is lost",
                    found is not None and not found["lost"],
                )
            )
    return lines


def caches(figures: Figures, settings: CheckSettings) -> list[Line]:
    speed = figures["speed"]
    later = [epoch["val_seconds"] for epoch in speed["epochs"][1:]]
    bare = speed["bare_forward_seconds"][1:]
    found = f"{spread(later, 3)} s; epoch 0 {speed['epochs'][0]['val_seconds']:.2f} s; bare forward pass {spread(bare, 3)} s"
    explained = "Drawn images validated from the tensor cache, all in: forward pass, polygons, metric."
    what = "cached validation epoch" + ("" if settings.cpu else " of 404 images")
    lines = [
        told(what, found, explained)
        if settings.cpu
        else at_most(what, max(later), MOST_CACHED_SECONDS, explained, "s", found)
    ]
    if "settings" not in figures:
        return lines
    rows = dict(figures["settings"]["rows"])
    plain = rows.pop("no cache")[0]["hmean"]
    lines.append(_finds_text(plain))
    for name, passes in rows.items():
        differences = [abs(scores["hmean"] - plain) for scores in passes]
        lines.append(
            at_most(
                f"hmean, cache {name}",
                _largest(differences),
                MOST_CACHE_DIFFERENCE,
                f"Of one checkpoint on {figures['settings']['images']} images, evaluated twice, the second time from the cache; "
                "difference from no cache.",
                found=f"{passes[0]['hmean']:.6f}, {passes[1]['hmean']:.6f}",
            )
        )
    for name, num_bytes in figures["settings"]["bytes"].items():
        lines.append(
            equal(
                f"bytes, cache {name}",
                _by_tier(num_bytes["taken"]),
                _by_tier(num_bytes["predicted"]),
                "Allocated on the GPU and in RAM, against the prediction before the run.",
            )
        )
    return lines


def agreement(figures: Figures, settings: CheckSettings) -> list[Line]:
    results = figures["results"]
    found = "; ".join(f"{each['device']}, loader={each['loader']}: {each['hmean']:.4f}" for each in results)
    explained = f"hmean of one checkpoint on {results[0]['images']} images, 32-true, on both."
    what = "hmean " + ("by both loaders of the CPU" if settings.cpu else "on GPU and CPU")
    if len(results) < 2:
        return [Line(what, found, explained, "two evaluations", False)]
    difference = abs(results[0]["hmean"] - results[1]["hmean"])
    return [
        at_most(what, difference, MOST_DEVICE_DIFFERENCE, explained, found=f"{difference:.4f} apart ({found})"),
        _finds_text(results[0]["hmean"]),
    ]


def precision(figures: Figures, settings: CheckSettings) -> list[Line]:
    runs = figures["runs"]
    by_name: dict[str, list[Figures]] = {}
    for run in runs:
        by_name.setdefault(run["precision"], []).append(run)
    lines = []
    for name, own in by_name.items():
        scores = [run["hmean"] for run in own]
        seconds = [run["train_seconds"] for run in own]
        found = f"{mean_spread(scores)} over {len(own)} seeds; {spread(seconds)} s of training"
        explained = (
            f"Validation hmean after {figures['epochs']} epochs on the drawn set: mean, least and most of the seeds."
        )
        what = f"hmean trained in {name}"
        if settings.cpu or "32-true" not in by_name:
            lines.append(told(what, found, explained))
            continue
        if name == "32-true":
            lines.append(at_least(what, mean(scores), LEAST_FULL_PRECISION, explained, found=found))
            continue
        # Of the seeds that both have: a budget that ends early leaves one with more.
        seeds = {run["seed"] for run in own} & {run["seed"] for run in by_name["32-true"]}
        own_mean, full_mean = (
            mean(run["hmean"] for run in by_name[each] if run["seed"] in seeds) for each in (name, "32-true")
        )
        lines.append(
            at_most(
                what,
                abs(own_mean - full_mean),
                MOST_PRECISION_DIFFERENCE,
                explained + " The difference is that of the means.",
                found=f"{own_mean - full_mean:+.4f} from 32-true: {found}",
            )
        )
    return lines


def train_step(figures: Figures, settings: CheckSettings) -> list[Line]:
    lines = []
    for backbone, found in figures.items():
        rows = found["levels"].get("train-step", {})
        shares = {row: measured["share_of_replay"] for row, measured in rows.items() if row != "replay"}
        said = "; ".join(
            f"{row} {f'{shares[row]:.1%}' if shares.get(row) is not None else ''} {_rate(measured)}".replace("  ", " ")
            for row, measured in rows.items()
        )
        what = f"training step of {backbone} beside a replayed batch"
        explained = (
            "Images a second of the training step with DALI, with and without its decoded images kept on the device, as a share of "
            "the step on one batch over and over; the better row counts."
        )
        known = [share for share in shares.values() if share is not None]
        if settings.cpu:
            lines.append(told(what, said, explained))
        else:
            lines.append(at_least(what, max(known, default=0.0), LEAST_SHARE_OF_REPLAY, explained, found=said))
    return lines


def loaders(figures: Figures, settings: CheckSettings) -> list[Line]:
    lines = []
    for level, rows in figures["levels"].items():
        for row, measured in rows.items():
            parity = measured.get("parity") or {}
            apart = (
                f"; {parity['mean_levels']:.3g} levels from the oracle" if parity.get("mean_levels") is not None else ""
            )
            lines.append(
                told(
                    f"{level}: {row}",
                    _rate(measured) + apart,
                    "compare_loaders: images a second of this row at this level; median, least and most of the rounds.",
                )
            )
        ours = [measured for row, measured in rows.items() if row.startswith("dali_")]
        failed = [measured["reason"] for measured in ours if str(measured["reason"]).startswith("failed")]
        lines.append(
            Line(
                f"{level}: the DALI rows run",
                f"{sum(bool(measured['images_per_second']) for measured in ours)} of {len(ours)}"
                + "".join(f"; {reason}" for reason in failed),
                "Rows that cannot run say why; none may fail.",
                "one at least, none fails",
                not failed and any(measured["images_per_second"] for measured in ours),
            )
        )
    return lines


def memory(figures: Figures, settings: CheckSettings) -> list[Line]:
    peak, plan = figures["peak_bytes"], figures.get("memory_plan") or {}
    what = f"peak of the {figures['memory']} in a run"
    found = f"{peak / 1e6:,.0f} MB, {figures['before_bytes'] / 1e6:,.0f} MB of them before it"
    explained = "Sampled every 20 ms while training and validation pipelines are alive" + (
        "; in use on the whole card." if figures["memory"] == "GPU" else "; of this process."
    )
    predicted = plan.get("predicted_gpu_peak_bytes")
    if figures["memory"] == "GPU":
        if predicted is None:
            return [Line(what, found, explained, "a plan in the run's summary.json", False)]
        taken = peak - figures["before_bytes"]
        return [
            at_most(what, taken / 1e6, predicted / 1e6, explained + " Against summary.json's memory_plan.", "MB", found)
        ]
    return [told(what, found, explained + " No plan names a peak of it.")]


def receipts(figures: Figures, settings: CheckSettings) -> list[Line]:
    epochs = [epoch for epoch in figures["summary"]["epochs"] if epoch.get("hmean") is not None]
    best = max(epochs, key=lambda epoch: epoch["hmean"])
    lines = []
    for threshold, key in ((0.5, "hmean"), (figures["strict_iou"], f"hmean_iou{figures['strict_iou']}")):
        what, explained = (
            f"receipts: hmean at IoU {threshold}",
            "Validation of the best epoch of an eight-minute training.",
        )
        if settings.cpu:
            lines.append(told(what, f"{best[key]:.4f}", explained))
        else:
            lines.append(at_least(what, best[key], LEAST_RECEIPTS[threshold], explained, found=f"{best[key]:.4f}"))
    return lines


def _finds_text(hmean: float) -> Line:
    return Line("the checkpoint finds text", f"hmean {hmean:.4f}", "Two zeros would agree too.", "above 0", hmean > 0)


def _by_tier(num_bytes: dict[str, int]) -> str:
    return ", ".join(f"{tier} {count:,}" for tier, count in num_bytes.items())


def _largest(values: Iterable[float]) -> float:
    """NaN where one is NaN."""
    return max(values, key=lambda value: (isnan(value), value))


def _rate(measured: Figures) -> str:
    rates: Sequence[float] = measured["images_per_second"]
    return f"{spread(rates)} images/s" if rates else str(measured["reason"])
