"""What the caches of a split did: hits, misses, sizes, and the line that tells them."""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class CacheSizes:
    """How many entries each cache holds."""

    images: int = 0
    tensors: int = 0
    maps: int = 0


@dataclass
class CacheStatistics:
    """Counts accesses, one a sample: a hit was served from the cache, a miss had to be made.

    Args:
        log_every_n: accesses between two lines; None: the caller logs once an epoch.
        sizes: asks the caches how full they are.
        log_line: takes each line.
    """

    log_every_n: int | None
    sizes: Callable[[], CacheSizes]
    log_line: Callable[[str], None]
    hits: int = 0
    misses: int = 0
    epoch_hits: int = field(default=0, init=False)
    epoch_misses: int = field(default=0, init=False)

    def start_epoch(self) -> None:
        """The counts of the epoch begin anew; those of the run go on."""
        self.epoch_hits = self.epoch_misses = 0

    def count(self, *, hits: int = 0, misses: int = 0) -> None:
        """Adds accesses, and logs where the next n are full."""
        before = self.hits + self.misses
        self.hits += hits
        self.misses += misses
        self.epoch_hits += hits
        self.epoch_misses += misses
        if self.log_every_n is not None and (before + hits + misses) // self.log_every_n > before // self.log_every_n:
            self.log_line(self.line())

    @property
    def epoch_hit_rate(self) -> float | None:
        """Of this epoch; None before the first access."""
        accesses = self.epoch_hits + self.epoch_misses
        return self.epoch_hits / accesses if accesses else None

    def line(self) -> str:
        """The whole run in one line."""
        sizes, accesses = self.sizes(), self.hits + self.misses
        return (
            f"Cache Statistics - Hits: {self.hits}, Misses: {self.misses}, "
            f"Hit Rate: {self.hits / max(accesses, 1):.1%}, Image Cache Size: {sizes.images}, "
            f"Tensor Cache Size: {sizes.tensors}, Maps Cache Size: {sizes.maps}"
        )
