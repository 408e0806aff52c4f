"""Reports how the caches of a split served an epoch, summed over all ranks."""

import logging

import lightning

from ocr.cache_statistics import CacheCounts
from ocr.loaders.loader import BatchLoader
from ocr.training.trainer_parts import cache_bytes_by_tier, log_scalars, sum_over_ranks

log = logging.getLogger(__name__)

LOW_HIT_RATE = 0.8
"""Below this hit rate after the first epoch, a cache is not worth its memory."""
SPLIT_NAMES = {"train": "training", "val": "validation"}


class CacheReport:
    """Reports hits, misses and bytes of each split's caches, summed over all ranks."""

    def __init__(self) -> None:
        self._last_rates: dict[str, float] = {}
        """Hit rate by split, of the last epoch with accesses."""
        self._lowest_rates: dict[str, float] = {}
        """Hit rate by split that the last warning gave."""

    def figures(self, trainer: lightning.Trainer, split: str, loaders: list[BatchLoader]) -> dict[str, int]:
        """Returns hits, misses and bytes of this epoch, and logs them as scalars.

        Also logs the counts as a line if the hit rate has changed since the last epoch, except after an epoch that only fills
        empty caches. Warns of a low hit rate after the first epoch, and again only if it falls further.
        """
        bytes_by_tier = cache_bytes_by_tier(loaders)
        counts = CacheCounts(*map(sum, zip(*(loader.statistics.counts() for loader in loaders), strict=True)))
        summed = sum_over_ranks(trainer, [*counts, *bytes_by_tier.values()])
        counts, num_bytes = CacheCounts(*summed[: len(counts)]), summed[len(counts) :]
        hits, misses = counts.epoch_hits, counts.epoch_misses
        if hits + misses:
            rate = hits / (hits + misses)
            scalars = {
                f"cache/{split}_bytes_{tier}": count for tier, count in zip(bytes_by_tier, num_bytes, strict=True)
            }
            log_scalars(trainer, scalars | {f"cache/{split}_hit_rate": rate})
            if trainer.is_global_zero:
                logs_every_n = any(loader.statistics.log_every_n is not None for loader in loaders)
                self._report(split, rate, None if logs_every_n else counts)
        return {"hits": hits, "misses": misses, "bytes": sum(num_bytes)}

    def _report(self, split: str, rate: float, counts: CacheCounts | None) -> None:
        """Logs `counts`, if given, and a warning, where there is something new to say."""
        last_rate = self._last_rates.get(split)
        if counts is not None and rate != (last_rate or 0.0):
            log.info("%s", counts.line())
        if last_rate is not None and rate < self._lowest_rates.get(split, LOW_HIT_RATE):
            self._lowest_rates[split] = rate
            log.warning(
                "cache: only %.0f %% of the %s samples came from the cache; give it more room (cache_config.ram_budget, "
                "device_budget, directory) or use performance=constrained, which needs half the memory",
                100 * rate,
                SPLIT_NAMES[split],
            )
        self._last_rates[split] = rate
