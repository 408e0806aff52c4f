"""Feeds changed files to the readers, and counts what they do with them."""

import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.fuzz.readers import Reader

LIMIT_SECONDS = 2.0
"""Processor time that a reader may take for an input below 1 MB."""


@dataclass
class Outcome:
    """Counts of a reader's reactions to its inputs."""

    counts: Counter[str] = field(default_factory=Counter)
    """accepted, refused, failed."""
    slowest: float = 0.0
    """Processor seconds of the slowest input."""
    failures: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    """By kind: the message and the first input."""


def fuzz(reader: Reader, seeds: Sequence[int]) -> Outcome:
    """Feeds one changed file for each seed to a reader."""
    outcome = Outcome()
    for seed in seeds:
        rng = random.Random(f"{reader.name} {seed}")
        content = reader.mutate(rng.choice(reader.samples), rng)
        started = time.process_time()
        kind = _kind(reader, content, outcome, seed)
        seconds = time.process_time() - started
        outcome.slowest = max(outcome.slowest, seconds)
        if seconds > LIMIT_SECONDS:
            kind = "failed"
            outcome.failures.setdefault("slow", (f"seed {seed}: {seconds:.1f} s", content))
        outcome.counts[kind] += 1
    return outcome


def _kind(reader: Reader, content: bytes, outcome: Outcome, seed: int) -> str:
    try:
        reader.read(content)
    except reader.errors as error:
        if "weights_only" not in str(error):
            return "refused"
        outcome.failures.setdefault("advice", (f"seed {seed}: {error}", content))
    except Exception as error:
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        where = "?" if place is None else f"{Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno}"
        outcome.failures.setdefault(
            f"{type(error).__name__} at {where}", (f"seed {seed}: {str(error)[:300]!r}", content)
        )
    else:
        return "accepted"
    return "failed"


def fuzz_for(readers: Sequence[Reader], seconds: float, seed: int) -> dict[str, Outcome]:
    """Returns the outcome of each reader after this time. Other seeds give other inputs."""
    end, totals = time.monotonic() + seconds, {reader.name: Outcome() for reader in readers}
    while time.monotonic() < end:
        for reader in readers:
            outcome, total = fuzz(reader, range(seed, seed + 20)), totals[reader.name]
            total.counts += outcome.counts
            total.slowest = max(total.slowest, outcome.slowest)
            total.failures = outcome.failures | total.failures
        seed += 20
    return totals


def report(totals: dict[str, Outcome], folder: Path) -> str:
    """Returns one line for each reader and each kind of failure. Keeps the inputs at fault in the folder."""
    lines = []
    for name, total in totals.items():
        counts = ", ".join(f"{count:,} {kind}" for kind, count in sorted(total.counts.items()))
        lines.append(f"{name}: {total.counts.total():,} inputs: {counts}; slowest {total.slowest:.2f} s")
        for number, (kind, (message, content)) in enumerate(total.failures.items()):
            path = folder / f"{name.replace(' ', '_')}_{number}"
            path.write_bytes(content)
            lines.append(f"  {kind}: {message}\n    {path}")
    return "\n".join(lines)
