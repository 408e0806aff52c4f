"""What a comparison found: every round, as it is written to results.json, and the figures drawn from it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import numpy as np

from benchmarks.loaders.config import WITH_NETWORK, Level


@dataclass(frozen=True)
class Spread:
    """Of the rounds."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(median(values), min(values), max(values))

    def overlaps(self, other: "Spread") -> bool:
        """Whether a round of the one lies within the rounds of the other."""
        return self.least <= other.most and other.least <= self.most


@dataclass
class Measured:
    """One row at one level."""

    num_workers: int = 0
    rounds: list[dict[str, Any]] = field(default_factory=list)
    """Answers of the row, the files in the page cache."""
    cold_rounds: list[dict[str, Any]] = field(default_factory=list)
    """The files dropped from it before each epoch; none for a row that reads no file after its first epoch."""
    first_batch_seconds: float | None = None
    warm_up_seconds: float | None = None
    """Of the first epoch with the network: what it compiles, or chooses by timing, is in it."""
    first_epoch_rounds: list[float] = field(default_factory=list)
    """Seconds from making the loader to the last batch of its first epoch, each in a process of its own."""
    opened_bytes: int = 0
    """Of RAM, after its first epoch."""
    opened_gpu_bytes: int = 0
    reads_files: bool = False
    """In epochs after the first, too."""
    parity: dict[str, Any] | None = None
    reason: str | None = None
    """Why it could not run, or failed."""

    @property
    def images_per_second(self) -> Spread | None:
        return _rate(self.rounds)

    @property
    def cold_images_per_second(self) -> Spread | None:
        return _rate(self.cold_rounds)

    @property
    def cpu_ms_per_image(self) -> Spread | None:
        """User and system time of the process and its workers."""
        if not self.rounds:
            return None
        return Spread.of([1000 * round_["cpu_seconds"] / round_["all_images"] for round_ in self.rounds])

    @property
    def cpu_percent(self) -> float | None:
        """100: one core is busy."""
        return _median([100 * round_["cpu_seconds"] / round_["wall_seconds"] for round_ in self.rounds])

    @property
    def gpu_percent(self) -> float | None:
        return _median([round_["gpu_percent"] for round_ in self.rounds if round_.get("gpu_percent") is not None])

    @property
    def peak_memory(self) -> int | None:
        """Bytes of RAM."""
        return max((round_["peak_memory"] for round_ in self.rounds + self.cold_rounds), default=None)

    @property
    def gpu_bytes(self) -> int | None:
        return max((round_["gpu_bytes"] for round_ in self.rounds), default=None)

    @property
    def megabytes_read_per_image(self) -> float | None:
        """From storage, with a cold page cache."""
        return _median([round_["read_bytes"] / round_["all_images"] / 1e6 for round_ in self.cold_rounds])

    @property
    def first_epoch_seconds(self) -> Spread | None:
        return Spread.of(self.first_epoch_rounds) if self.first_epoch_rounds else None

    def batch_ms(self, share: float) -> Spread | None:
        """From one batch to the next: what so large a share of a round's batches does not exceed, by round."""
        rounds = [round_["batch_seconds"] for round_ in self.rounds if round_.get("batch_seconds")]
        if not rounds:
            return None
        return Spread.of([1000 * float(np.quantile(seconds, share, method="higher")) for seconds in rounds])

    def stage_ms_per_image(self, stage: str) -> float | None:
        return _median(
            [1000 * round_["stages"][stage] / round_["all_images"] for round_ in self.rounds if round_["stages"]]
        )


def _rate(rounds: Sequence[dict[str, Any]]) -> Spread | None:
    return Spread.of([round_["images"] / round_["seconds"] for round_ in rounds]) if rounds else None


def _median(values: Sequence[float]) -> float | None:
    return median(values) if values else None


@dataclass
class Results:
    """All rows at all levels, and where they were measured."""

    levels: dict[Level, dict[str, Measured]] = field(default_factory=dict)
    """By level and row."""
    sweeps: dict[str, dict[int, Measured]] = field(default_factory=dict)
    """By row and number of workers, at the level `input`."""
    environment: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    image_statistics: dict[str, Any] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    """Bytes: of the whole data set if it were kept, and free."""
    is_interrupted: bool = False
    verdict: list[str] = field(default_factory=list)

    def measured(self, level: Level, row: str) -> Measured:
        """Made on first use."""
        return self.levels.setdefault(level, {}).setdefault(row, Measured())

    def found(self, level: Level, row: str) -> Measured | None:
        """With at least one round."""
        measured = self.levels.get(level, {}).get(row)
        return measured if measured is not None and measured.rounds else None

    def share_of_replay(self, level: Level, row: str) -> float | None:
        """Of the speed of a batch that is there already."""
        replay, measured = self.found(level, "replay"), self.found(level, row)
        if replay is None or measured is None or level not in WITH_NETWORK:
            return None
        limit, rate = replay.images_per_second, measured.images_per_second
        return rate.median / limit.median if limit and rate else None

    def document(self) -> dict[str, Any]:
        """For results.json."""
        return asdict(self)
