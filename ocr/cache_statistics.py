"""Counts hits and misses of a split's caches, and reports them in a log line."""

import logging
from collections.abc import Callable
from dataclasses import astuple, dataclass, field
from typing import NamedTuple

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CacheSizes:
    """Number of entries in each cache."""

    images: int = 0
    tensors: int = 0
    maps: int = 0


class CacheCounts(NamedTuple):
    """Accesses and entries of a loader's caches, or the sum over several loaders or ranks."""

    epoch_hits: int
    epoch_misses: int
    run_hits: int
    run_misses: int
    images: int
    tensors: int
    maps: int

    def line(self) -> str:
        """Returns the counts of this epoch, the sizes of the caches, and the counts of the whole run as one log line."""
        run_accesses = self.run_hits + self.run_misses
        return (
            f"Cache Statistics - Hits: {self.epoch_hits}, Misses: {self.epoch_misses}, "
            f"Hit Rate: {self.epoch_hits / max(self.epoch_hits + self.epoch_misses, 1):.1%}, "
            f"Image Cache Size: {self.images}, Tensor Cache Size: {self.tensors}, Maps Cache Size: {self.maps} "
            f"(this epoch; whole run: {self.run_hits} of {run_accesses}, {self.run_hits / max(run_accesses, 1):.1%})"
        )


@dataclass
class CacheStatistics:
    """Counts one access per sample: a hit came from a cache, a miss had to be made.

    Args:
        log_every_n: accesses between two log lines; None: the caller logs a line at the end of each epoch.
        sizes: function that returns the present sizes of the caches.
    """

    log_every_n: int | None
    sizes: Callable[[], CacheSizes]
    hits: int = field(default=0, init=False)
    """Hits of the whole run."""
    misses: int = field(default=0, init=False)
    """Misses of the whole run."""
    epoch_hits: int = field(default=0, init=False)
    epoch_misses: int = field(default=0, init=False)

    def start_epoch(self) -> None:
        """Sets the counts of the epoch to 0; the counts of the run continue."""
        self.epoch_hits = self.epoch_misses = 0

    def count(self, *, hits: int = 0, misses: int = 0) -> None:
        """Adds accesses, and logs a line whenever another `log_every_n` are complete."""
        before = self.hits + self.misses
        self.hits += hits
        self.misses += misses
        self.epoch_hits += hits
        self.epoch_misses += misses
        if self.log_every_n is not None and (before + hits + misses) // self.log_every_n > before // self.log_every_n:
            log.info("%s", self.counts().line())

    def counts(self) -> CacheCounts:
        """Returns the counts up to now, with the present sizes of the caches."""
        return CacheCounts(self.epoch_hits, self.epoch_misses, self.hits, self.misses, *astuple(self.sizes()))
