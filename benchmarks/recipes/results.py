"""The measured rows: which are missing, and which differences are clear."""

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks.recipes.recipes import Group, Recipe
from ocr.atomic_write import write_atomically

Verdict = Literal["better", "worse", "not clear"]
Settings = Mapping[str, Any]
"""Overrides of the command and the identities of its files."""


@dataclass(frozen=True)
class Difference:
    """The difference of a recipe to its baseline, at the same seeds."""

    mean: float
    limit: float | None
    """Twice the range of the baseline over its seeds, by the square root of the number of pairs; None: unknown."""

    @property
    def verdict(self) -> Verdict:
        if self.limit is None or abs(self.mean) <= self.limit:
            return "not clear"
        return "better" if self.mean > 0 else "worse"


@dataclass
class Results:
    """All rows. A row holds group, recipe, seed and settings, and the figures of `run_recipe`."""

    environment: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def load(cls, path: Path, environment: dict[str, Any]) -> "Results":
        """Reads the rows of earlier invocations; none if there is no file."""
        rows = json.loads(path.read_bytes())["rows"] if path.exists() else []
        return cls(environment, rows)

    def save(self, path: Path) -> None:
        """Writes all rows, whole or not at all."""
        document = {"environment": self.environment, "rows": self.rows}
        write_atomically(path, (json.dumps(document, indent=1) + "\n").encode())

    def put(self, row: dict[str, Any]) -> None:
        """Adds a row in the place of an earlier one of the same recipe and seed."""
        key = _key(row)
        self.rows = [*(other for other in self.rows if _key(other) != key), row]

    def row(self, group: Group, recipe: Recipe, seed: int) -> dict[str, Any] | None:
        """Returns the row of this recipe and seed; None: not measured."""
        key = (group.name, recipe.name, seed)
        return next((row for row in self.rows if _key(row) == key), None)

    def rows_of(self, group: Group, recipe: Recipe) -> list[dict[str, Any]]:
        """Returns the rows of a recipe by seed: those with its present overrides and the same files as the newest one."""
        overrides = group.overrides_of(recipe)
        rows = [
            row
            for row in self.rows
            if (row["group"], row["recipe"], row["settings"]["overrides"]) == (group.name, recipe.name, overrides)
        ]
        return sorted((row for row in rows if row["settings"] == rows[-1]["settings"]), key=lambda row: row["seed"])

    def spread(self, group: Group, column: str) -> float | None:
        """Returns the range of the baseline's score over its seeds; None with fewer than two."""
        values = [score_of(row, column) for row in self.rows_of(group, group.baseline)]
        return max(values) - min(values) if len(values) > 1 else None

    def difference(self, group: Group, recipe: Recipe, column: str) -> Difference | None:
        """Returns the mean difference to the baseline over the seeds that both have; None: there is no such seed,
        or they used other files."""
        bases = {row["seed"]: row for row in self.rows_of(group, group.baseline)}
        pairs = [
            score_of(row, column) - score_of(bases[row["seed"]], column)
            for row in self.rows_of(group, recipe)
            if row["seed"] in bases and _have_same_files(row, bases[row["seed"]])
        ]
        if not pairs:
            return None
        spread = self.spread(group, column)
        return Difference(statistics.mean(pairs), None if spread is None else 2 * spread / len(pairs) ** 0.5)


def _key(row: Mapping[str, Any]) -> tuple[str, str, int]:
    return row["group"], row["recipe"], row["seed"]


def _have_same_files(row: Mapping[str, Any], base: Mapping[str, Any]) -> bool:
    """Returns whether the files that both commands name have the same content, the checkpoint of an evaluation for example."""
    files, others = row["settings"]["files"], base["settings"]["files"]
    return all(files[name] == others[name] for name in files.keys() & others.keys())


ALL = "all"
"""Column with the mean of all scores of a row."""


def columns_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the scores of these rows: `receipts 0.5` and the like, and `all` if there are more than two."""
    names = dict.fromkeys(name for row in rows for name in row["scores"])
    columns = [f"{name} {iou}" for name in names for iou in ("0.5", "0.7")]
    return [*columns, ALL] if len(columns) > 2 else columns


def score_of(row: Mapping[str, Any], column: str) -> float:
    """Returns one score of a row; of the column `all`, the mean of its scores."""
    scores: dict[str, float] = {}
    for name, own in row["scores"].items():
        scores |= {f"{name} 0.5": own["hmean"], f"{name} 0.7": own["hmean_iou0.7"]}
    return statistics.mean(scores.values()) if column == ALL else scores[column]


@dataclass(frozen=True)
class Job:
    """A recipe and a seed to measure."""

    group: Group
    recipe: Recipe
    seed: int


def planned(groups: Sequence[Group], seeds: Sequence[int], results: Results) -> Iterator[Job]:
    """Yields all jobs in the order of their interest: baselines, first seeds, further seeds where the difference is not clear.

    The results are read when a job is due, so that a row added meanwhile decides about further seeds.
    """
    for group in groups:
        for seed in seeds if group.has_seeds else [0]:
            yield Job(group, group.baseline, seed)
        if group.all_seeds:
            yield from (Job(group, recipe, seed) for recipe in group.recipes for seed in seeds)
    single = [group for group in groups if not group.all_seeds]
    for group in single:
        yield from (Job(group, recipe, seeds[0] if group.has_seeds else 0) for recipe in group.recipes)
    for seed in seeds[1:]:
        for group in single:
            for recipe in group.recipes if group.has_seeds else ():
                found = results.difference(group, recipe, ALL)
                if results.row(group, recipe, seed) or (found is not None and found.verdict == "not clear"):
                    yield Job(group, recipe, seed)


def is_measured(results: Results, job: Job, settings: Settings) -> bool:
    """Returns whether there is a row of this job with these settings."""
    row = results.row(job.group, job.recipe, job.seed)
    return row is not None and row["settings"] == settings
