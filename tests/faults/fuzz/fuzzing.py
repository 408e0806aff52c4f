"""Feeds changed files to the readers, and counts what they do with them."""

import faulthandler
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.fuzz.readers import Reader

LIMIT_SECONDS = 2.0
"""Processor time that a reader may take for an input below 1 MB."""
HANG_SECONDS = 1800
"""Time after which twenty inputs that still have no answer end the whole run, with the place in the code."""


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


def fuzz_for(readers: Sequence[Reader], seconds: float, seed: int, folder: Path) -> dict[str, Outcome]:
    """Returns the outcome of each reader after this time. Other seeds give other inputs.

    Counts and inputs at fault are in the folder after each round, so that a crash or a kill leaves them. `current` there names the
    inputs under way.
    """
    folder.mkdir(parents=True, exist_ok=True)
    end, totals = time.monotonic() + seconds, {reader.name: Outcome() for reader in readers}
    while time.monotonic() < end:
        for reader in readers:
            (folder / "current").write_text(f"{reader.name}, seeds {seed} to {seed + 19}\n")
            faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
            outcome, total = fuzz(reader, range(seed, seed + 20)), totals[reader.name]
            total.counts += outcome.counts
            total.slowest = max(total.slowest, outcome.slowest)
            total.failures = total.failures | {
                key: value for key, value in outcome.failures.items() if key not in total.failures
            }
        (folder / "counts").write_text(report(totals, folder) + "\n")
        seed += 20
    faulthandler.cancel_dump_traceback_later()
    (folder / "current").unlink(missing_ok=True)
    return totals


def report(totals: dict[str, Outcome], folder: Path) -> str:
    """Returns one line for each reader and each kind of failure. Keeps the inputs at fault in the folder."""
    num_inputs = sum(total.counts.total() for total in totals.values())
    num_flagged = sum(total.counts["failed"] for total in totals.values())
    slowest = max((total.slowest for total in totals.values()), default=0.0)
    lines = [
        f"{len(totals)} readers, {num_inputs:,} inputs, {num_flagged:,} flagged, slowest {slowest:.2f} s; kept in {folder}"
    ]
    for name, total in totals.items():
        counts = ", ".join(f"{count:,} {kind}" for kind, count in sorted(total.counts.items()))
        lines.append(f"{name}: {total.counts.total():,} inputs: {counts}; slowest {total.slowest:.2f} s")
        for number, (kind, (message, content)) in enumerate(total.failures.items()):
            path = folder / f"{name.replace(' ', '_')}_{number}"
            path.write_bytes(content)
            lines.append(f"  {kind}: {message}\n    {path}")
    return "\n".join(lines)
