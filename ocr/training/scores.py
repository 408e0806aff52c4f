"""Scores of a validation epoch from the counts of its images."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypeVar

import numpy as np
from torch import Tensor, nn

from ocr.datasets.manifest import ManifestSet
from ocr.metrics.cleval import CLEvalCounts, CLEvalMetric
from ocr.metrics.icdar import ICDARMetric, MatchCounts
from ocr.training.evaluation import IOU_THRESHOLDS, ImageResult

Counts = TypeVar("Counts", MatchCounts, CLEvalCounts)

STRICT_IOU = IOU_THRESHOLDS[1]


class ValidationScores(nn.Module):
    """The metrics, summed over all ranks. A module, so that they follow the network to its device.

    Args:
        selected: metric reported as val/hmean, val/precision and val/recall.
        with_cleval: compute CLEval even if it is not selected.
        sets: the data sets of the evaluated split; each of several gets scores of its own.
    """

    def __init__(
        self, selected: Literal["icdar", "cleval"], with_cleval: bool, sets: Sequence[ManifestSet] = ()
    ) -> None:
        super().__init__()
        self.whole = _Scores(selected, with_cleval)
        self._of_sets = [_Scores(selected, with_cleval) for _ in sets]
        self.of_sets = nn.ModuleList(self._of_sets)
        self._names = [part.name for part in sets]
        self._stops = np.cumsum([part.num_images for part in sets])

    @property
    def has_cleval(self) -> bool:
        """Whether CLEval is computed."""
        return self.whole.cleval is not None

    def compute(self, results: list[ImageResult]) -> dict[str, Tensor]:
        """Returns val/{hmean,precision,recall} and val/hmean_iou0.7 of the results of all ranks.

        With CLEval also val/cleval_{hmean,precision,recall}. If CLEval is selected, val/{hmean,precision,recall} are CLEval's, and
        val/iou_{hmean,precision,recall} are ICDAR's. Several data sets have the same scores with their name appended:
        val/hmean/NAME.
        """
        scores = self.whole.compute(results)
        of_sets: list[list[ImageResult]] = [[] for _ in self._names]
        for result in results if of_sets else []:
            of_sets[int(np.searchsorted(self._stops, result.sample_index, side="right"))].append(result)
        for name, metrics, own in zip(self._names, self._of_sets, of_sets, strict=True):
            scores |= {f"{key}/{name}": value for key, value in metrics.compute(own).items()}
        return scores


class _Scores(nn.Module):
    """The metrics of some images."""

    def __init__(self, selected: Literal["icdar", "cleval"], with_cleval: bool) -> None:
        super().__init__()
        self.selected = selected
        self.icdar, self.strict_icdar = (ICDARMetric(threshold) for threshold in IOU_THRESHOLDS)
        self.cleval = CLEvalMetric() if with_cleval or selected == "cleval" else None

    def compute(self, results: list[ImageResult]) -> dict[str, Tensor]:
        for place, metric in enumerate((self.icdar, self.strict_icdar)):
            metric.reset()
            metric.add(sum_counts(MatchCounts, (result.matches[place] for result in results)))
        icdar = self.icdar.compute()
        scores = {f"val/{name}": value for name, value in icdar.items()}
        scores[f"val/hmean_iou{STRICT_IOU}"] = self.strict_icdar.compute()["hmean"]
        if self.cleval is None:
            return scores
        self.cleval.reset()
        characters = (result.characters for result in results if result.characters is not None)
        self.cleval.add(sum_counts(CLEvalCounts, characters))
        cleval = self.cleval.compute()
        scores |= {f"val/cleval_{name}": value for name, value in cleval.items()}
        if self.selected == "cleval":
            scores |= {f"val/iou_{name}": value for name, value in icdar.items()}
            scores |= {f"val/{name}": value for name, value in cleval.items()}
        return scores


def sum_counts(kind: type[Counts], counts: Iterable[Counts]) -> Counts:
    """Returns the sum of the counts of many images. Summing on the host saves a transfer to the device per image."""
    zero = kind(*[0] * len(kind._fields))
    return kind(*(sum(column) for column in zip(zero, *counts, strict=True)))


def scores_of_sets(scores: Mapping[str, Tensor | float], prefix: str = "val/") -> dict[str, dict[str, float]]:
    """Returns hmean, precision and recall of each of several data sets, by its name, from scores of `ValidationScores`."""
    of_sets: dict[str, dict[str, float]] = {}
    for metric in ("hmean", "precision", "recall"):
        start = f"{prefix}{metric}/"
        for key in scores:
            if key.startswith(start):
                of_sets.setdefault(key.removeprefix(start), {})[metric] = float(scores[key])
    return of_sets
