"""The base class of both metrics."""

import warnings

import pytest
import torch

from ocr.metrics.cleval import CLEvalCounts, CLEvalMetric
from ocr.metrics.icdar import ICDARMetric, MatchCounts


@pytest.mark.parametrize(
    ("metric", "half", "whole"),
    [
        (ICDARMetric(), MatchCounts(1, 2, 1), MatchCounts(2, 2, 2)),
        (CLEvalMetric(), CLEvalCounts(5, 10, 5, 0, 0), CLEvalCounts(10, 10, 10, 0, 0)),
    ],
    ids=["icdar", "cleval"],
)
def test_counts_can_be_added_without_an_update(metric, half, whole):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torchmetrics warns if it thinks that there was nothing to compute
        metric.add(half)
        assert float(metric.compute()["recall"]) == 0.5
        metric.add(whole)
        assert float(metric.compute()["recall"]) == 0.75


@pytest.mark.parametrize("metric_type", [ICDARMetric, CLEvalMetric])
def test_one_batch_equals_single_images(metric_type, street_scenes, with_detections):
    pages = [page[:3] for page in with_detections(street_scenes[:12])]
    batch, singly = metric_type(), metric_type()
    batch.update(*zip(*pages, strict=True))
    for page in pages:
        singly.update(*([part] for part in page))
    assert batch.compute() == singly.compute()
    batch.reset()
    batch.update([], [], [])
    assert not any(batch.compute().values())


def _score_every_second_image(rank, init_file, pages):
    torch.distributed.init_process_group("gloo", f"file://{init_file}", rank=rank, world_size=2)
    metrics = ICDARMetric(), CLEvalMetric()
    for metric in metrics:
        for page in pages[rank::2]:
            metric.update(*([part] for part in page))
    torch.save([metric.compute() for metric in metrics], f"{init_file}.{rank}")
    torch.distributed.destroy_process_group()


def test_two_processes_equal_one(street_scenes, with_detections, tmp_path):
    pages = [page[:3] for page in with_detections(street_scenes[:13])]
    alone = ICDARMetric(), CLEvalMetric()
    for metric in alone:
        metric.update(*zip(*pages, strict=True))
    # Forked: two fresh interpreters would import torch for 15 s.
    torch.multiprocessing.start_processes(
        _score_every_second_image, (tmp_path / "init", pages), nprocs=2, start_method="fork"
    )
    for rank in range(2):
        assert torch.load(tmp_path / f"init.{rank}") == [metric.compute() for metric in alone]
