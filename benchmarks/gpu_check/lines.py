"""One line of the result: what was found, and what was asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median


@dataclass(frozen=True)
class Line:
    """A finding. One that nothing was asked of is told and cannot fail."""

    what: str
    found: str
    explained: str
    """What it is and how it was measured, in a sentence."""
    asked: str | None = None
    passed: bool | None = None
    """None: nothing was asked."""


def told(what: str, found: str, explained: str) -> Line:
    """A line that nothing is asked of."""
    return Line(what, found, explained)


def at_most(what: str, value: float, limit: float, explained: str, unit: str = "", found: str | None = None) -> Line:
    """Passed where `value` is no more than `limit`; NaN is more. `found`: the value in other words."""
    return Line(what, found or _number(value, unit), explained, f"at most {_number(limit, unit)}", bool(value <= limit))


def at_least(what: str, value: float, limit: float, explained: str, unit: str = "", found: str | None = None) -> Line:
    """Passed where `value` is no less than `limit`; NaN is less."""
    return Line(
        what, found or _number(value, unit), explained, f"at least {_number(limit, unit)}", bool(value >= limit)
    )


def equal(what: str, value: object, expected: object, explained: str) -> Line:
    """Passed where both are the same."""
    return Line(what, str(value), explained, str(expected), value == expected)


def spread(values: Sequence[float], digits: int = 1) -> str:
    """median (min - max)"""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} - {max(values):.{digits}f})"


def mean_spread(values: Sequence[float], digits: int = 4) -> str:
    """mean (min - max)"""
    return f"{mean(values):.{digits}f} ({min(values):.{digits}f} - {max(values):.{digits}f})"


def _number(value: float, unit: str) -> str:
    return f"{value:.4g}{f' {unit}' if unit else ''}"
