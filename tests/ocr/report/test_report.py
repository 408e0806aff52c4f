"""The report of whole evaluations of the drawn set: its numbers, its comparison, and the page in a real browser."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from ocr.config import EvaluateConfig
from ocr.errors import InputError
from ocr.inference import evaluate
from ocr.metrics.icdar import MatchCounts
from ocr.metrics.pooled_counts import PooledCounts
from ocr.report import compare
from tests.browser import browser_page
from tests.composing import quickly_composed

PRESENT = 0.45


def configured(drawn: Path, checkpoint: Path, *overrides: str) -> EvaluateConfig:
    given = [f"checkpoint={checkpoint}", "data=upstage", f"dataset_base_path={drawn}", "split=val", "device=cpu"]
    return quickly_composed(EvaluateConfig, "evaluate", [*given, "report.num_images=3", *overrides])


@pytest.fixture(scope="module")
def folder(drawn: Path, untrained_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two evaluations of a network with random weights, first/ and second/, which compares itself with the first."""
    root = tmp_path_factory.mktemp("reports")
    settings = ("postprocess.bin_thresh=0.4", f"postprocess.box_thresh={PRESENT}")
    evaluate(configured(drawn, untrained_checkpoint, *settings), root / "first")
    other = (*settings, "image_size=192", f"compare={root / 'first'}")
    evaluate(configured(drawn, untrained_checkpoint, *other), root / "second")
    return root


def test_the_report_is_one_file_that_refers_to_nothing_else(folder):
    document = (folder / "first" / "report.html").read_text()
    references = re.findall(r'(?:src|href)="([^"]*)"', document)
    assert references
    assert all(reference.startswith(("data:image/", "#")) for reference in references)
    assert "url(" not in document
    assert "default-src 'none'" in document


def test_worst_images_have_pictures_and_maps_and_all_have_a_row(folder):
    first = folder / "first"
    names = re.findall(
        r'<figcaption><button class="plain enlarge">larger</button>\s*<b>([^<]*)</b>',
        (first / "report.html").read_text(),
    )
    assert len(names) == 3
    assert {path.name for path in (first / "worst_maps").iterdir()} == {f"{name}.png" for name in names}
    lines = [json.loads(line) for line in (first / "predictions.jsonl").read_text().splitlines()[1:]]
    hmeans = {line["image"]: _hmean(*line["matches"][0]) for line in lines}
    assert [hmeans[name] for name in names] == sorted(hmeans.values())[:3]
    drawn = {path.name for path in (first / "pictures").iterdir()}
    assert len(drawn) == 4
    assert set(names) <= drawn


def _hmean(matched: int, num_texts: int, num_found: int) -> float:
    return 2 * matched / (num_texts + num_found) if num_texts + num_found else 1.0


def test_an_evaluation_compared_with_itself_has_no_differences(folder, drawn, untrained_checkpoint, monkeypatch):
    reads = []
    read = compare.read_upstage
    monkeypatch.setattr(compare, "read_upstage", lambda path: reads.append(path) or read(path))
    config = configured(
        drawn, untrained_checkpoint, "postprocess.bin_thresh=0.4", f"postprocess.box_thresh={PRESENT}",
        f"compare={folder / 'first' / 'metrics.json'}",
    )  # fmt: skip
    evaluate(config, folder / "first")  # all images are done: only the page is written
    text = (folder / "first" / "report.html").read_text()
    assert "8 images in both: 0 better here, " in text
    assert "0 worse, 8 alike" in text
    assert reads == [folder / "first" / "predictions.json"]  # once: no image differs, so none is drawn


def test_a_continued_evaluation_writes_the_same_report(folder, drawn, untrained_checkpoint, tmp_path):
    copy = shutil.copytree(folder / "first", tmp_path / "copy")
    lines = (copy / "predictions.jsonl").read_bytes().splitlines(keepends=True)
    (copy / "predictions.jsonl").write_bytes(b"".join(lines[:5]))
    for line in lines[5:]:
        (copy / "worst_maps" / f"{json.loads(line)['image']}.png").unlink(missing_ok=True)
    settings = ("postprocess.bin_thresh=0.4", f"postprocess.box_thresh={PRESENT}")
    evaluate(configured(drawn, untrained_checkpoint, *settings), copy)
    evaluate(configured(drawn, untrained_checkpoint, *settings), folder / "first")  # without the comparison
    assert (copy / "report.html").read_text() == (folder / "first" / "report.html").read_text()


def test_a_comparison_lists_the_largest_differences_first(folder):
    text = (folder / "second" / "report.html").read_text()
    part = text[text.index('<h2 id="compare">') : text.index('<h2 id="images">')]
    gains = [abs(float(value)) for value in re.findall(r'data-value="(-?[\d.]+)">[^<]*</td><td class="num">', part)][6:]
    assert gains == sorted(gains, reverse=True)
    first, second = (json.loads((folder / name / "metrics.json").read_text()) for name in ("first", "second"))
    row = re.search(r"hmean at IoU 0.5</th><td[^>]*>([\d.]+)</td><td[^>]*>([\d.]+)</td>", part)
    assert [float(value) for value in row.groups()] == pytest.approx([second["hmean"], first["hmean"]], abs=1e-4)


@pytest.fixture(scope="module")
def trained(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two evaluations of the shipped weights, large/ and small/, which compares itself with the first."""
    root = tmp_path_factory.mktemp("trained")
    evaluate(configured(drawn, Path("small"), "image_size=160"), root / "large")
    evaluate(configured(drawn, Path("small"), "image_size=128", f"compare={root / 'large'}"), root / "small")
    return root


def test_the_page_and_the_metrics_have_the_margin_that_the_residuals_of_the_images_give(trained):
    first = trained / "large"
    metrics = json.loads((first / "metrics.json").read_text())
    lines = [json.loads(line) for line in (first / "predictions.jsonl").read_text().splitlines()[1:]]
    for place, name in enumerate(("hmean", "hmean_iou0.7")):
        counts = np.array([line["matches"][place] for line in lines])
        total = counts[:, 1:].sum()
        residuals = (2 * counts[:, 0] - metrics[name] * counts[:, 1:].sum(axis=1)) / total
        assert metrics[f"{name}_error"] == pytest.approx((8 / 7 * (residuals**2).sum()) ** 0.5)
    told = f"{metrics['hmean']:.4f} <small>± {2 * metrics['hmean_error']:.4f}</small></b>hmean at IoU 0.5"
    assert metrics["hmean_error"] > 0
    assert told in (first / "report.html").read_text()


def test_a_difference_has_the_margin_of_the_images_that_both_runs_share(trained):
    pooled = PooledCounts(num_runs=2)
    runs = []
    for name in ("small", "large"):
        lines = (trained / name / "predictions.jsonl").read_text().splitlines()[1:]
        runs.append({(line := json.loads(text))["image"]: line["matches"][0] for text in lines})
    for image, here in runs[0].items():
        pooled.add(MatchCounts(*here), MatchCounts(*runs[1][image]))
    margin = 2 * pooled.difference_errors().hmean
    text = (trained / "small" / "report.html").read_text()
    row = text[text.index("hmean at IoU 0.5</th>") :].partition("</tr>")[0]
    assert f"± {margin:.4f}</td>" in row
    difference = pooled.scores(0).hmean - pooled.scores(1).hmean
    assert ("<td>clear</td>" in row) == (abs(difference) > margin)


def test_a_run_without_predictions_is_named_before_anything_is_read(tmp_path, drawn, untrained_checkpoint):
    config = configured(drawn, untrained_checkpoint, f"compare={tmp_path}")
    with pytest.raises(InputError, match=r"there is no .*predictions\.json; give the folder of a finished evaluation"):
        evaluate(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_images_are_refused_for_a_comparison_before_any_is_evaluated(tmp_path, drawn, untrained_checkpoint):
    (tmp_path / "predictions.json").write_text('{"images": {"other.jpg": {"words": {}}}}')
    config = configured(drawn, untrained_checkpoint, f"compare={tmp_path}")
    with pytest.raises(InputError, match="the two runs have no image in common; give a run on the same images"):
        evaluate(config, tmp_path / "run")
    assert not (tmp_path / "run" / "predictions.jsonl").exists()


@pytest.mark.parametrize("points", ["[[0, 0], [NaN, 1], [2, 2]]", "[[0, 0], [1, 1]]"])
def test_a_word_without_a_polygon_is_named_before_any_image_is_evaluated(tmp_path, drawn, untrained_checkpoint, points):
    name = max((drawn / "images/val").iterdir()).name
    other = tmp_path / "predictions.json"
    other.write_text(f'{{"images": {{"{name}": {{"words": {{"0007": {{"points": {points}}}}}}}}}}}')
    with pytest.raises(
        InputError, match=rf"predictions\.json \({name}, word 0007\): found .* expected at least 3 points"
    ):
        evaluate(configured(drawn, untrained_checkpoint, f"compare={other}"), tmp_path / "run")
    assert not (tmp_path / "run" / "predictions.jsonl").exists()


def test_images_that_the_audit_left_out_are_counted_in_the_report(drawn, untrained_checkpoint, tmp_path):
    data = shutil.copytree(drawn, tmp_path / "data")
    image = min((data / "images" / "val").glob("*.jpg"))
    image.write_bytes(image.read_bytes()[:600])
    settings = ("image_size=64", "report.num_images=0")
    evaluate(configured(data, untrained_checkpoint, *settings), tmp_path / "run")
    said = "<th>images left out as unusable</th><td>1 of 8; audit_val*.json says why</td>"
    assert said in (tmp_path / "run" / "report.html").read_text()


def test_a_browser_shows_the_page_sorts_and_switches_layers(folder, tmp_path):
    with browser_page(tmp_path) as page:
        page.open(folder / "second" / "report.html")
        assert page.value("document.querySelectorAll('table.plain tbody tr').length") == 7  # 0.4, 0.45, 0.5 ... 0.9
        drawn = "getComputedStyle(document.querySelector('.shot:not(:has(.pair)) .view .{}')).display"
        for layer, at_first in (("map", False), ("scores", True)):
            states = []
            for _ in range(3):
                states.append(page.value(drawn.format(layer)) != "none")
                page.value(f"document.querySelector('.layers input[name={layer}]').click()")
            assert states == [at_first, not at_first, at_first]
        pictures = "[...document.querySelectorAll('.view')].every(view => view.getBoundingClientRect().height > 50)"
        assert page.value(pictures)
        column = "[...document.querySelectorAll('#all ~ .scroll tbody tr')].map(row => +row.cells[4].textContent)"
        page.value("document.querySelectorAll('#all ~ .scroll th')[4].click()")
        words = page.value(column)
        assert words == sorted(words, reverse=True)
        page.value("document.querySelectorAll('#all ~ .scroll th')[4].click()")
        assert page.value(column) == sorted(words)
        page.value("document.querySelector('.enlarge').click()")
        assert page.picture().startswith(b"\x89PNG")
        assert page.complaints == []
        assert page.requests == [(folder / "second" / "report.html").as_uri()]
