import numpy as np
import pytest

from ocr.datasets.manifest import ManifestSet
from ocr.metrics.cleval import CLEvalCounts
from ocr.metrics.icdar import MatchCounts
from ocr.postprocess.boxes import Detections
from ocr.training.evaluation import ImageResult
from ocr.training.scores import ValidationScores, scores_of_sets

NOTHING = Detections(np.zeros((0, 2), np.float32), np.zeros(1, np.int64), np.zeros(0, np.float32))


def result(index: int, matched: int, expected: int, found: int) -> ImageResult:
    counts = MatchCounts(matched, num_targets=expected, num_predictions=found)
    return ImageResult(index, NOTHING, (counts, counts), None, 0.0, 0.0)


def test_each_set_has_the_scores_of_its_own_images():
    sets = [ManifestSet("a", 2, 2), ManifestSet("b", 1, 4)]
    scores = ValidationScores("icdar", False, sets)
    for _ in range(2):  # nothing is left of the validation before
        found = scores.compute([result(0, 1, 1, 2), result(1, 1, 1, 2), result(2, 0, 2, 1)])
    assert float(found["val/precision"]) == pytest.approx(2 / 5)
    assert float(found["val/recall"]) == pytest.approx(2 / 4)
    of_sets = scores_of_sets(found)
    assert of_sets["a"] == pytest.approx({"hmean": 2 / 3, "precision": 1 / 2, "recall": 1, "hmean_iou0.7": 2 / 3})
    assert of_sets["b"] == {"hmean": 0, "precision": 0, "recall": 0, "hmean_iou0.7": 0}
    assert float(found["val/hmean_iou0.7/a"]) == pytest.approx(2 / 3)


def test_the_strict_hmean_is_that_of_the_second_threshold():
    loose, strict = MatchCounts(3, 4, 4), MatchCounts(1, 4, 4)
    found = ValidationScores("icdar", False).compute([result(0, 0, 0, 0)._replace(matches=(loose, strict))])
    assert (float(found["val/hmean"]), float(found["val/hmean_iou0.7"])) == (0.75, 0.25)


def test_a_single_set_has_no_scores_besides_the_whole():
    found = ValidationScores("icdar", False).compute([result(0, 1, 2, 1)])
    assert scores_of_sets(found) == {}
    assert not any(key.count("/") > 1 for key in found)


def test_the_selected_metric_is_that_of_the_sets_too():
    characters = CLEvalCounts(*[0] * len(CLEvalCounts._fields))
    whole = result(0, 1, 1, 1)._replace(characters=characters)
    found = ValidationScores("cleval", True, [ManifestSet("a", 1, 1)]).compute([whole])
    assert float(found["val/hmean/a"]) == 0
    assert scores_of_sets(found, "val/iou_")["a"] == {"hmean": 1, "precision": 1, "recall": 1, "hmean_iou0.7": 1}
