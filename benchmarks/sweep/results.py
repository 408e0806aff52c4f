"""The results of a sweep and their judgement: a value is better or worse only if no round contradicts."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from benchmarks.loaders.config import LEVELS, Level
from benchmarks.loaders.recommendation import MIN_DIFFERENCE
from benchmarks.loaders.results import Measurement, Spread
from benchmarks.sweep.factors import Factor, JudgedBy, Value

Judgement = Literal["better", "worse", "no difference", "longer waits", "not judged"]
"""longer waits: faster, but its slowest batches are slower. not judged: it failed, or has too few rounds."""
LEAST_ROUNDS = 3
TAIL = 0.99
"""Quantile of the batch times that decides about waiting."""
WORSE_TAIL = 1.1
"""A tail is longer if it exceeds the present one by this factor, and all rounds do: tails vary more than means."""


@dataclass
class Swept:
    """A factor with its present value and the others, measured in turns."""

    factor: Factor
    present: Measurement = field(default_factory=Measurement)
    others: list[tuple[Value, Measurement]] = field(default_factory=list)

    def judgements(self) -> dict[Value, Judgement]:
        """Returns the judgement of each value that was tried."""
        return {value: judged(self.present, measured, self.factor.judged_by) for value, measured in self.others}

    def best(self) -> Value | None:
        """Returns the best of the better values; None: none is better than the present one."""
        found = self.judgements()
        ratios = {
            value: ratio
            for value, measured in self.others
            if found[value] == "better" and (ratio := gain(self.present, measured, self.factor.judged_by)) is not None
        }
        return max(ratios, key=lambda value: ratios[value]) if ratios else None


@dataclass
class Combined:
    """All recommended values together, beside the present configuration."""

    level: Level
    present: Measurement = field(default_factory=Measurement)
    combined: Measurement = field(default_factory=Measurement)
    values: dict[str, Value] = field(default_factory=dict)

    @property
    def judgement(self) -> Judgement:
        return judged(self.present, self.combined, "images_per_second")


@dataclass
class Sweep:
    """The results of a sweep, as written to sweep.json."""

    swept: list[Swept] = field(default_factory=list)
    combined: list[Combined] = field(default_factory=list)
    not_varied: list[Factor] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    num_images: int = 0
    """Images of the training split."""
    is_interrupted: bool = False

    def recommended(self) -> dict[str, Value]:
        """Returns the better value by key, unless it is worse at another level. Training goes before validation."""
        found: dict[str, Value] = {}
        for swept in self.swept:
            best = swept.best()
            if best is not None and not self._is_worse_elsewhere(swept.factor.key, best):
                found.setdefault(swept.factor.key, best)
        return found

    def levels_of(self, values: dict[str, Value]) -> list[Level]:
        """Returns the levels at which at least one of the values was better."""
        levels = {
            swept.factor.level
            for swept in self.swept
            if swept.factor.key in values and swept.best() == values[swept.factor.key]
        }
        return [level for level in LEVELS if level in levels]

    def confirmed(self) -> dict[str, Value]:
        """Returns the recommended values for which a level where they were better is better with all of them together too. Nothing
        is confirmed if they were not measured together to the end, or are worse at a level."""
        values = self.recommended()
        together = self._together(values)
        if not self.is_measured_together() or any(each.judgement == "worse" for each in together):
            return {}
        levels = {each.level for each in together if each.judgement == "better"}
        return {
            key: value
            for key, value in values.items()
            if any(
                # A setting that is judged by its first epoch does not show in later ones.
                swept.factor.level in levels or swept.factor.judged_by == "first_epoch_seconds"
                for swept in self.swept
                if swept.factor.key == key and swept.best() == value
            )
        }

    def is_measured_together(self) -> bool:
        """Returns whether all recommended values were measured together, to the end, at each level where one of them is better."""
        values = self.recommended()
        together = self._together(values)
        levels = {each.level for each in together if each.judgement != "not judged"}
        return levels == set(self.levels_of(values))

    def document(self) -> dict[str, Any]:
        """Returns the content of sweep.json."""
        found = asdict(self)
        for swept, told in zip(self.swept, found["swept"], strict=True):
            told["others"] = [
                {"value": value, "judgement": swept.judgements()[value], **asdict(measured)}
                for value, measured in swept.others
            ]
            told["best"] = swept.best()
        for combined, told in zip(self.combined, found["combined"], strict=True):
            told["judgement"] = combined.judgement
        return found | {"recommended": self.recommended(), "confirmed": self.confirmed()}

    def _together(self, values: dict[str, Value]) -> list[Combined]:
        return [each for each in self.combined if each.values == values]

    def _is_worse_elsewhere(self, key: str, value: Value) -> bool:
        return any(
            swept.judgements().get(value) in ("worse", "longer waits")
            for swept in self.swept
            if swept.factor.key == key
        )


def judged(present: Measurement, other: Measurement, by: JudgedBy) -> Judgement:
    """Returns better or worse if the ranges of the rounds do not overlap and the medians differ by more than 3 %."""
    one, two = criterion(present, by), criterion(other, by)
    if one is None or two is None or min(_num_rounds(present, by), _num_rounds(other, by)) < LEAST_ROUNDS:
        return "not judged"
    ratio = gain(present, other, by)
    if ratio is None or one.overlaps(two) or abs(ratio - 1) <= MIN_DIFFERENCE:
        return "no difference"
    if ratio < 1:
        return "worse"
    return "longer waits" if _has_longer_tail(present, other) else "better"


def gain(present: Measurement, other: Measurement, by: JudgedBy) -> float | None:
    """Returns the ratio of the medians; above 1 is better, whatever is measured."""
    one, two = criterion(present, by), criterion(other, by)
    if one is None or two is None:
        return None
    return two.median / one.median if by == "images_per_second" else one.median / two.median


def criterion(measured: Measurement, by: JudgedBy) -> Spread | None:
    """Returns the spread that decides."""
    return measured.images_per_second if by == "images_per_second" else measured.first_epoch_seconds


def _num_rounds(measured: Measurement, by: JudgedBy) -> int:
    return len(measured.rounds if by == "images_per_second" else measured.first_epoch_rounds)


def _has_longer_tail(present: Measurement, other: Measurement) -> bool:
    one, two = present.batch_ms(TAIL), other.batch_ms(TAIL)
    return one is not None and two is not None and two.least > one.most and two.median > WORSE_TAIL * one.median


def as_overrides_text(values: dict[str, Value]) -> list[str]:
    """Returns `key=value` for each."""
    return [f"{key}={value_text(value)}" for key, value in values.items()]


def value_text(value: Value) -> str:
    """Returns a value as Hydra takes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
