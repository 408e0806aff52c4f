"""Parts of the page of an evaluation that whole evaluations of the drawn set do not show."""

import re
from collections import Counter

import numpy as np

from ocr.metrics.cleval import CLEvalCounts
from ocr.metrics.icdar import MatchCounts, Scores
from ocr.metrics.pooled_counts import PooledSplit
from ocr.metrics.review import sweep_thresholds
from ocr.report.findings import Findings, Sweep
from ocr.report.page import ReportPage, page


def page_of(box_thresh: float, best: float | None) -> str:
    """Returns a page whose hmean is 0.5 at the threshold `best`, and 0 at all others."""
    thresholds = sweep_thresholds(0.35, box_thresh)
    hmeans = np.zeros(len(thresholds)) if best is None else np.isclose(thresholds, best) / 2
    scores = tuple(Scores(hmean, hmean, hmean) for hmean in hmeans.tolist())
    counts = PooledSplit({}, num_thresholds=2)
    counts.add(0, [MatchCounts(0, 1, 1)] * 2)
    findings = Findings(
        counts, CLEvalCounts(0, 0, 0, 0, 0), Counter(), Counter(), Sweep(thresholds, (scores, scores)), (), (), ()
    )
    return page(ReportPage("<b>", (), (0.5, 0.75), box_thresh, findings, (), (), ()))


def rows_of(document: str) -> list[tuple[str, str]]:
    """Returns threshold and note of each row of the table of thresholds."""
    return re.findall(
        r'<tr><td class="num">([\d.]+)</td>(?:<td class="num">[\d.]+</td>){4}<td>([a-z, ]*)</td></tr>', document
    )


def test_the_table_has_tenths_the_ends_and_the_present_and_best_threshold_as_they_are():
    rows = rows_of(page_of(0.615, 0.47))
    assert rows == [
        ("0.35", ""), ("0.4", ""), ("0.47", "best"), ("0.5", ""), ("0.6", ""), ("0.615", "present"), ("0.7", ""), ("0.8", ""),
        ("0.9", ""),
    ]  # fmt: skip


def test_no_threshold_is_recommended_where_none_finds_a_text():
    document = page_of(0.615, None)
    assert "No detection matches a text at any threshold" in document
    assert "postprocess.box_thresh=" not in document
    assert all("best" not in note for _, note in rows_of(document))
    assert '<p class="paste"><code>postprocess.box_thresh=0.47</code>' in page_of(0.615, 0.47)


def test_the_stricter_iou_is_named_everywhere_and_a_title_is_no_markup():
    document = page_of(0.6, 0.6)
    assert "<button>IoU 0.75</button>" in document
    assert "0.7</button>" not in document
    assert "<h1>&lt;b&gt;</h1>" in document
