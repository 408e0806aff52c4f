"""The host benchmark's results, as a JSON document and as a report with its limits."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from benchmarks.environment import environment_lines
from benchmarks.host.launching import LIMIT_US, LaunchingTimes
from benchmarks.host.planning import PlanningTimes
from benchmarks.host.step import LIMIT_MS, StepTimes
from benchmarks.host.timing import NUM_CORES, Timing
from benchmarks.host.validation import WANTED_IMAGES_PER_SECOND, ValidationTimes
from benchmarks.host.workloads import PLANNING_LIMITS_US
from benchmarks.report import Report, Table

MAX_GROWTH = 1.1
"""Largest ratio of the CPU times at the largest and the smallest number of images."""


@dataclass
class HostResults:
    """All figures of a run; a section that was not measured is empty."""

    environment: dict[str, Any]
    """Machine, versions, commit and command."""
    batch_size: int
    planning: list[PlanningTimes] = field(default_factory=list)
    launching: list[LaunchingTimes] = field(default_factory=list)
    step: StepTimes | None = None
    validation: list[ValidationTimes] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """Returns every figure and whether each limit holds, for a JSON file."""
        results = asdict(self)
        return results.pop("environment") | results | {"limits": [asdict(limit) for limit in limits(self)]}


@dataclass(frozen=True)
class Limit:
    """A figure beside its limit."""

    what: str
    found: float
    limit: float
    unit: str
    is_smallest: bool = False
    """True: the figure must not be below the limit."""

    @property
    def holds(self) -> bool:
        """Whether the figure keeps the limit."""
        return self.found >= self.limit if self.is_smallest else self.found <= self.limit

    def cells(self, before: float | None) -> list[str]:
        """Returns the row of the table: what, before, now, limit, and whether it holds."""
        bound = f"{'>=' if self.is_smallest else '<='} {self.limit:,g} {self.unit}"
        earlier = "" if before is None else _number(before)
        return [self.what, earlier, _number(self.found), bound, "holds" if self.holds else "MISSED"]


def _number(value: float) -> str:
    return f"{value:,.{0 if value >= 1000 else 1 if value >= 10 else 2}f}"


def limits(results: HostResults) -> list[Limit]:
    """Returns each figure that has a limit."""
    found = [
        Limit(
            f"plan, polygons and outlines, {times.workload}",
            times.total.median,
            PLANNING_LIMITS_US[times.workload],
            "us",
        )
        for times in _smallest_sets(results.planning)
    ]
    found += [
        Limit(f"launching thread, {times.workload}", times.total.median, LIMIT_US, "us")
        for times in _smallest_sets(results.launching)
    ]
    for what, rows in (("plan, polygons and outlines", results.planning), ("launching thread", results.launching)):
        found += _growth(what, rows)
    if results.step is not None:
        found.append(Limit("Lightning and hooks, a step", results.step.hooks_ms, LIMIT_MS, "ms"))
    receipts = [times for times in results.validation if times.workload == "receipts"][:1]
    return found + [
        Limit(
            f"validation at {times.size}, receipts, {NUM_CORES} cores",
            times.images_per_second,
            WANTED_IMAGES_PER_SECOND,
            "images/s",
            is_smallest=True,
        )
        for times in receipts
    ]


Row = PlanningTimes | LaunchingTimes


def _by_workload(rows: Iterable[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.workload, []).append(row)
    return groups


def _smallest_sets(rows: Iterable[Row]) -> list[Row]:
    return [min(group, key=lambda row: row.images) for group in _by_workload(rows).values()]


def _growth(what: str, rows: Iterable[Row]) -> list[Limit]:
    """Returns how each workload's time grows from the smallest to the largest set."""
    found = []
    for workload, group in _by_workload(rows).items():
        ordered = sorted(group, key=lambda row: row.images)
        first, last = ordered[0], ordered[-1]
        if last.images > first.images:
            name = f"{what}, {workload}, {last.images:,} images against {first.images:,}"
            found.append(Limit(name, last.total.median / first.total.median, MAX_GROWTH, "times"))
    return found


def report(results: HostResults, before: Mapping[str, Any] | None = None) -> Report:
    """Returns the report for the terminal and for Markdown.

    Args:
        before: document of an earlier run, to show its figures beside the limits.
    """
    inputs = f"batches of {results.batch_size} at 640 x 640, one thread; medians (min - max) of the repeats"
    tables = [
        _limits_table(results, before),
        _planning_table(results),
        _launching_table(results),
        _step_table(results),
        _validation_table(results),
    ]
    missed = [f"Limit missed: {limit.what}." for limit in limits(results) if not limit.holds]
    return Report(
        title="Host: CPU time of the parts that stay on the CPU",
        facts=[
            "what the CPU does for a sample and a step while a GPU trains or validates, measured without a GPU",
            *environment_lines(results.environment, inputs),
        ],
        tables=[table for table in tables if table.rows],
        appendix=("", []),
        legend="Times are CPU times (time.thread_time). GIL: share of the time in which the GIL is held, sampled by a second "
        "thread; benchmarks/host/timing.py says how.",
        conclusions=("In short", missed or ["All limits hold."]),
        is_interrupted=False,
    )


def _limits_table(results: HostResults, before: Mapping[str, Any] | None) -> Table:
    earlier = {limit["what"]: limit["found"] for limit in before["limits"]} if before is not None else {}
    rows = [limit.cells(earlier.get(limit.what)) for limit in limits(results)]
    notes = [] if before is None else [f"before: commit {before['commit']}, started {before['started']}"]
    return Table("Limits", ("figure", "before", "now", "limit", ""), rows, notes).without_empty_columns()


def _planning_table(results: HostResults) -> Table:
    names = list(results.planning[0].parts) if results.planning else []
    rows = [
        [
            f"{times.workload} ({times.polygons_per_image:.0f} polygons)",
            f"{times.images:,}",
            *(cell for name in names for cell in _median_and_gil(times.parts[name])),
            _spread(times.total.microseconds, 1),
        ]
        for times in results.planning
    ]
    columns = ("split", "images", *(column for name in names for column in (name, "GIL")), "sum")
    notes = [
        "packing: of the polygons, for the Triton kernel; it counts in the limits of plan, polygons and outlines too"
    ]
    return Table("Planning: microseconds a sample", columns, rows, notes)


def _launching_table(results: HostResults) -> Table:
    names = list(results.launching[0].parts) if results.launching else []
    rows = [
        [
            times.workload,
            f"{times.images:,}",
            *(f"{times.parts[name].median:.1f}" for name in names),
            _spread(times.total.microseconds, 1),
            f"{times.gil_share:.0%}",
            f"{times.dali.median:.1f}",
            f"{times.epoch_start.median / 1000:.1f} ms",
        ]
        for times in results.launching
    ]
    columns = ("split", "images", *names, "sum", "GIL", "DALI's own", "epoch's start")
    notes = [
        "sources: the callbacks that DALI calls, with the planning done in them",
        "feeding: DALI's run without these callbacks and without its own time, which a graph without sources takes",
        "targets: up to the launch; loader: everything else",
        "epoch's start: CPU time of all threads from the start of an iteration to its first batch",
    ]
    return Table("The thread that launches: microseconds a sample", columns, rows, notes)


def _step_table(results: HostResults) -> Table:
    step = results.step
    rows = [] if step is None else [[_spread(times, 2) for times in (step.lightning, step.bare, step.hooks)]]
    return Table("A training step: milliseconds", ("with Lightning", "bare", "Lightning and hooks"), rows)


def _validation_table(results: HostResults) -> Table:
    rows = [
        [
            f"{times.workload} ({times.polygons_found:.0f} found)",
            str(times.size),
            *(
                cell
                for timing in times.parts.values()
                for cell in (_spread([us / 1000 for us in timing.microseconds], 2), f"{timing.gil_share or 0:.0%}")
            ),
            f"{times.images_per_second:,.0f}",
        ]
        for times in results.validation
    ]
    names = list(results.validation[0].parts) if results.validation else []
    columns = (
        "split",
        "size",
        *(column for name in names for column in (name, "GIL")),
        f"images/s at most, {NUM_CORES} cores",
    )
    return Table("Validation: milliseconds an image", columns, rows)


def _median_and_gil(timing: Timing) -> tuple[str, str]:
    return f"{timing.median:.1f}", f"{timing.gil_share or 0:.0%}"


def _spread(values: list[float], digits: int) -> str:
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} - {max(values):.{digits}f})"
