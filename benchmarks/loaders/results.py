"""The results of a comparison: every round, as written to results.json, and the numbers derived from them."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import numpy as np

from benchmarks.loaders.config import WITH_NETWORK, Level
from benchmarks.loaders.messages import Opened, Round
from benchmarks.loaders.parity import Parity


@dataclass(frozen=True)
class Spread:
    """Median and range of the rounds."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread | None":
        """Returns the spread of the values; None: there are none."""
        return cls(median(values), min(values), max(values)) if values else None

    def __str__(self) -> str:
        return f"{short(self.median)} [{short(self.least)}-{short(self.most)}]"

    def overlaps(self, other: "Spread") -> bool:
        """Returns whether the two ranges have a value in common."""
        return self.least <= other.most and other.least <= self.most


def short(value: float) -> str:
    """Returns about three digits: 4.21, 38.5, 412, 145k, 10.8M."""
    for limit, divisor, digits, unit in ((10, 1, 2, ""), (100, 1, 1, ""), (10_000, 1, 0, ""), (1e6, 1e3, 0, "k")):
        if value < limit:
            return f"{value / divisor:.{digits}f}{unit}"
    return f"{value / 1e6:.1f}M"


@dataclass
class Measurement:
    """One row at one level, or one value of a setting at one level."""

    num_workers: int = 0
    rounds: list[Round] = field(default_factory=list)
    """Files in the page cache."""
    cold_rounds: list[Round] = field(default_factory=list)
    """Files dropped from the page cache before each epoch; empty for a row that reads no file after its first epoch."""
    first_batch_seconds: float | None = None
    warm_up_seconds: float | None = None
    """First epoch with the network, compilation and choice of algorithms included."""
    first_epoch_rounds: list[float] = field(default_factory=list)
    """Seconds from making the loader to the last batch of its first epoch, each in a process of its own."""
    opened_bytes: int = 0
    """RAM after the first epoch."""
    opened_gpu_bytes: int = 0
    reads_files: bool = False
    """Whether epochs after the first read files too."""
    parity: Parity | None = None
    reason: str | None = None
    """Reason why it could not run, or failed."""

    def record_opened(self, opened: Opened) -> None:
        """Records the time and memory that opening the loader took."""
        self.first_batch_seconds, self.warm_up_seconds = opened.first_batch_seconds, opened.warm_up_seconds
        self.opened_bytes, self.opened_gpu_bytes = opened.peak_memory, opened.gpu_bytes
        self.reads_files = opened.reads_files
        if opened.first_epoch_seconds is not None:
            self.first_epoch_rounds.append(opened.first_epoch_seconds)

    @property
    def images_per_second(self) -> Spread | None:
        return Spread.of([round_.images / round_.seconds for round_ in self.rounds])

    @property
    def cold_images_per_second(self) -> Spread | None:
        return Spread.of([round_.images / round_.seconds for round_ in self.cold_rounds])

    @property
    def rate(self) -> float:
        """Median of `images_per_second`; 0 without rounds."""
        return spread.median if (spread := self.images_per_second) else 0.0

    @property
    def ms_per_image(self) -> float:
        """Wall-clock time, median; infinite without rounds."""
        return 1000 / self.rate if self.rate else math.inf

    @property
    def cpu_ms_per_image(self) -> Spread | None:
        """User and system time of the process and its workers, per image."""
        return Spread.of([1000 * round_.cpu_seconds / round_.all_images for round_ in self.rounds])

    @property
    def cpu_ms(self) -> float:
        """Median of `cpu_ms_per_image`; infinite without rounds."""
        return spread.median if (spread := self.cpu_ms_per_image) else math.inf

    @property
    def cpu_percent(self) -> float | None:
        """100 means one busy core."""
        return _median([100 * round_.cpu_seconds / round_.wall_seconds for round_ in self.rounds])

    @property
    def gpu_percent(self) -> float | None:
        return _median([round_.gpu_percent for round_ in self.rounds if round_.gpu_percent is not None])

    @property
    def peak_memory(self) -> int | None:
        """Bytes of RAM."""
        return max((round_.peak_memory for round_ in self.rounds + self.cold_rounds), default=None)

    @property
    def gpu_bytes(self) -> int | None:
        return max((round_.gpu_bytes for round_ in self.rounds), default=None)

    @property
    def megabytes_read_per_image(self) -> float | None:
        """Read from storage, with a cold page cache."""
        return _median([round_.read_bytes / round_.all_images / 1e6 for round_ in self.cold_rounds])

    @property
    def first_epoch_seconds(self) -> Spread | None:
        return Spread.of(self.first_epoch_rounds)

    def batch_ms(self, share: float) -> Spread | None:
        """Returns the quantile `share` of the times from batch to batch, by round."""
        rounds = [round_.batch_seconds for round_ in self.rounds if round_.batch_seconds]
        return Spread.of([1000 * float(np.quantile(seconds, share, method="higher")) for seconds in rounds])

    def stage_ms_per_image(self, stage: str) -> float | None:
        return _median([1000 * round_.stages[stage] / round_.all_images for round_ in self.rounds if round_.stages])


def _median(values: Sequence[float]) -> float | None:
    return median(values) if values else None


@dataclass
class Results:
    """All rows at all levels, and where they were measured."""

    levels: dict[Level, dict[str, Measurement]] = field(default_factory=dict)
    """By level and row."""
    sweeps: dict[str, dict[int, Measurement]] = field(default_factory=dict)
    """By row and number of workers, at the level `input`."""
    environment: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    image_statistics: dict[str, Any] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    """Bytes that keeping the whole data set would take, and free bytes."""
    is_interrupted: bool = False
    unfinished: Level | None = None
    """Level at which rows are still being measured, or were when Ctrl-C came."""
    verdict: list[str] = field(default_factory=list)

    def measurement(self, level: Level, row: str) -> Measurement:
        """Returns the measurement of a row; a new one on first use."""
        return self.levels.setdefault(level, {}).setdefault(row, Measurement())

    def rows_at(self, level: Level) -> dict[str, Measurement]:
        """Returns the rows with at least one round at a level."""
        return {name: row for name, row in self.levels.get(level, {}).items() if row.rounds}

    def found(self, level: Level, row: str) -> Measurement | None:
        """Returns a measurement with at least one round."""
        return self.rows_at(level).get(row)

    def of_row(self, row: str) -> list[Measurement]:
        """Returns the measurements of a row at all levels."""
        return [rows[row] for rows in self.levels.values() if row in rows]

    def share_of_replay(self, level: Level, row: str) -> float | None:
        """Returns the speed relative to a replayed batch."""
        replay, measured = self.found(level, "replay"), self.found(level, row)
        if replay is None or measured is None or level not in WITH_NETWORK:
            return None
        return measured.rate / replay.rate

    def document(self) -> dict[str, Any]:
        """Returns the content of results.json."""
        return asdict(self)
