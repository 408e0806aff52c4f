"""What the caches of a split did in an epoch, over all ranks."""

import logging

import lightning

from ocr.loaders.loader import BatchLoader
from ocr.training.trainer_parts import log_scalars, sum_over_ranks

log = logging.getLogger(__name__)

LOW_HIT_RATE = 0.8
"""Below this hit rate after the first epoch, a cache is not worth its memory."""
SPLIT_NAMES = {"train": "training", "val": "validation"}


class CacheReport:
    """Sums hits, misses and bytes of each split's caches, and logs them where they change."""

    def __init__(self) -> None:
        self._last_rates: dict[str, float] = {}
        """Hit rate by split, of the last epoch with accesses."""

    def figures(self, trainer: lightning.Trainer, split: str, loaders: list[BatchLoader]) -> dict[str, int]:
        """Returns hits, misses and bytes of this epoch. Logs them as scalars.

        Logs a line if the hit rate differs from the last epoch's, but not for an epoch that fills empty caches. Warns of a low hit
        rate after the first epoch.
        """
        bytes_by_tier: dict[str, int] = {}
        for loader in loaders:
            for tier, count in loader.cache_bytes.items():
                bytes_by_tier[tier] = bytes_by_tier.get(tier, 0) + count
        hits = sum(loader.statistics.epoch_hits for loader in loaders)
        misses = sum(loader.statistics.epoch_misses for loader in loaders)
        hits, misses, *num_bytes = sum_over_ranks(trainer, [hits, misses, *bytes_by_tier.values()])
        if hits + misses:
            rate = hits / (hits + misses)
            scalars = {
                f"cache/{split}_bytes_{tier}": count for tier, count in zip(bytes_by_tier, num_bytes, strict=True)
            }
            log_scalars(trainer, scalars | {f"cache/{split}_hit_rate": rate})
            if trainer.is_global_zero:
                self._report(split, rate, loaders)
        return {"hits": hits, "misses": misses, "bytes": sum(num_bytes)}

    def _report(self, split: str, rate: float, loaders: list[BatchLoader]) -> None:
        last_rate = self._last_rates.get(split)
        if rate != (last_rate or 0.0):
            for loader in loaders:
                if loader.statistics.log_every_n is None:
                    log.info("%s", loader.statistics.line())
        if last_rate is not None and rate < LOW_HIT_RATE:
            log.warning(
                "cache: only %.0f %% of the %s samples came from the cache; give it more room (cache_config.ram_budget, "
                "device_budget, directory) or use performance=constrained, which needs half the memory",
                100 * rate,
                SPLIT_NAMES[split],
            )
        self._last_rates[split] = rate
