"""The report on caches counts all ranks."""

import logging
import multiprocessing
from pathlib import Path
from types import SimpleNamespace

import torch

from ocr.cache_statistics import CacheSizes, CacheStatistics
from ocr.training.callbacks import caches
from ocr.training.callbacks.caches import CacheReport


def report_of_rank(rank: int, folder: Path) -> None:
    """Reports one epoch of rank 0 or 1; writes the figures and the log to <rank>.txt."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=2)
    logger = logging.getLogger(caches.__name__)
    logger.setLevel(logging.INFO)
    logger.addHandler(logging.FileHandler(folder / f"{rank}.txt"))
    statistics = CacheStatistics(None, lambda: CacheSizes(images=1, tensors=2 + rank, maps=0))
    statistics.count(misses=4)
    statistics.start_epoch()
    statistics.count(hits=3, misses=rank)
    loader = SimpleNamespace(statistics=statistics, cache_bytes={"gpu": 0, "ram": 10 + rank})
    trainer = SimpleNamespace(world_size=2, is_global_zero=rank == 0, loggers=[], global_step=0)
    logger.info("%s", CacheReport().figures(trainer, "val", [loader]))
    torch.distributed.destroy_process_group()


def test_line_and_figures_are_the_sums_over_all_ranks(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=report_of_rank, args=(rank, tmp_path)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    figures = "{'hits': 6, 'misses': 1, 'bytes': 21}"
    assert (tmp_path / "0.txt").read_text().splitlines() == [
        "Cache Statistics - Hits: 6, Misses: 1, Hit Rate: 85.7%, Image Cache Size: 2, Tensor Cache Size: 5, "
        "Maps Cache Size: 0 (this epoch; whole run: 6 of 15, 40.0%)",
        figures,
    ]
    assert (tmp_path / "1.txt").read_text().splitlines() == [figures]
