"""The charts of the report of an evaluation."""

import numpy as np
import pytest

from ocr.metrics.icdar import Scores
from ocr.report.charts import sweep_chart
from ocr.report.findings import Sweep


def sweep_of(*hmeans: float) -> Sweep:
    scores = tuple(Scores(hmean, hmean, hmean) for hmean in hmeans)
    return Sweep(np.linspace(0.3, 0.9, len(hmeans)), (scores, scores))


@pytest.mark.parametrize("hmeans", [(0.5, 0.6, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.4)])
@pytest.mark.parametrize("present", [0.3, 0.9])
def test_the_present_threshold_is_drawn_also_where_nothing_is_found(hmeans, present):
    assert '<line class="now"' in sweep_chart(sweep_of(*hmeans), present, "IoU 0.7")


def test_one_threshold_makes_a_chart_too():
    sweep = Sweep(np.array([0.99]), ((Scores(0.5, 0.5, 0.5),), (Scores(0.5, 0.5, 0.5),)))
    assert "<svg" in sweep_chart(sweep, 0.99, "IoU 0.7")
