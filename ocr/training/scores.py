"""Scores of a validation epoch from the counts of its images."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
from torch import Tensor, nn

from ocr.datasets.manifest import ManifestSet
from ocr.metrics.cleval import CLEvalCounts, CLEvalMetric
from ocr.metrics.icdar import ICDARMetric, MatchCounts
from ocr.training.evaluation import IOU_THRESHOLDS, ImageResult

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

    def compute(self, results: Iterable[ImageResult]) -> dict[str, Tensor]:
        """Returns val/{hmean,precision,recall} and val/hmean_iou0.7 of the results of all ranks. Reads the results once.

        With CLEval also val/cleval_{hmean,precision,recall}. If CLEval is selected, val/{hmean,precision,recall} are CLEval's, and
        val/iou_{hmean,precision,recall} are ICDAR's. Several data sets have the same scores with their name appended:
        val/hmean/NAME.
        """
        of_sets = [_Sums() for _ in self._names or ("",)]
        for result in results:
            of_sets[int(np.searchsorted(self._stops, result.sample_index, side="right"))].add(result)
        scores = self.whole.compute(_Sums.of(of_sets))
        for name, metrics, own in zip(
            self._names, self._of_sets, of_sets, strict=False
        ):  # one set has no name and no module
            scores |= {f"{key}/{name}": value for key, value in metrics.compute(own).items()}
        return scores


class _Sums:
    """The counts of some images, summed."""

    def __init__(self) -> None:
        self.matches = [MatchCounts(0, 0, 0)] * len(IOU_THRESHOLDS)
        """One for each of `IOU_THRESHOLDS`."""
        self.characters = CLEvalCounts(0, 0, 0, 0, 0)

    @classmethod
    def of(cls, parts: "Sequence[_Sums]") -> "_Sums":
        """Returns the sum of several sums."""
        whole = cls()
        for part in parts:
            whole._add(part.matches, part.characters)
        return whole

    def add(self, result: ImageResult) -> None:
        """Adds the counts of one image. Summing on the host saves a transfer to the device per image."""
        self._add(result.matches, result.characters)

    def _add(self, matches: Sequence[MatchCounts], characters: CLEvalCounts | None) -> None:
        self.matches = [
            MatchCounts(*map(sum, zip(*pair, strict=True))) for pair in zip(self.matches, matches, strict=True)
        ]
        if characters is not None:
            self.characters = CLEvalCounts(*map(sum, zip(self.characters, characters, strict=True)))


class _Scores(nn.Module):
    """The metrics of some images."""

    def __init__(self, selected: Literal["icdar", "cleval"], with_cleval: bool) -> None:
        super().__init__()
        self.selected = selected
        self.icdar, self.strict_icdar = (ICDARMetric(threshold) for threshold in IOU_THRESHOLDS)
        self.cleval = CLEvalMetric() if with_cleval or selected == "cleval" else None

    def compute(self, sums: _Sums) -> dict[str, Tensor]:
        for metric, matches in zip((self.icdar, self.strict_icdar), sums.matches, strict=True):
            metric.reset()
            metric.add(matches)
        icdar = self.icdar.compute()
        scores = {f"val/{name}": value for name, value in icdar.items()}
        scores[f"val/hmean_iou{STRICT_IOU}"] = self.strict_icdar.compute()["hmean"]
        if self.cleval is None:
            return scores
        self.cleval.reset()
        self.cleval.add(sums.characters)
        cleval = self.cleval.compute()
        scores |= {f"val/cleval_{name}": value for name, value in cleval.items()}
        if self.selected == "cleval":
            scores |= {f"val/iou_{name}": value for name, value in icdar.items()}
            scores |= {f"val/{name}": value for name, value in cleval.items()}
        return scores


def scores_of_sets(scores: Mapping[str, Tensor | float], prefix: str = "val/") -> dict[str, dict[str, float]]:
    """Returns hmean, precision, recall and the strict hmean of each of several data sets, by its name.

    Args:
        scores: scores of `ValidationScores`.
        prefix: start of the names of the first three; val/iou_ if CLEval is selected. The strict hmean is always ICDAR's.
    """
    strict = f"hmean_iou{STRICT_IOU}"
    starts = {metric: f"{prefix}{metric}/" for metric in ("hmean", "precision", "recall")} | {strict: f"val/{strict}/"}
    of_sets: dict[str, dict[str, float]] = {}
    for metric, start in starts.items():
        for key in scores:
            if key.startswith(start):
                of_sets.setdefault(key.removeprefix(start), {})[metric] = float(scores[key])
    return of_sets
