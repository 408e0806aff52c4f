"""Counts of a long test, which goes on after a failure."""

import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

MAX_FAILURES = 10


class Tally:
    """Counts what a test has done and keeps its failures for the end."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []

    @contextmanager
    def case(self, what: str) -> Iterator[None]:
        """Keeps the failure of one case, so that the others still run."""
        try:
            yield
        except Exception:
            if len(self.failures) == MAX_FAILURES:
                raise
            self.failures.append(f"{self.name}, {what}:\n{traceback.format_exc(limit=-2)}")
            print(f"FAILED {self.failures[-1]}", flush=True)

    def close(self) -> None:
        """Prints the counts in one line; fails if a case has failed."""
        counts = ", ".join(f"{count:,} {kind}" for kind, count in self.counts.items())
        print(f"\n{self.name}: {counts}, {len(self.failures)} failures", flush=True)
        assert not self.failures, "\n".join(self.failures)
