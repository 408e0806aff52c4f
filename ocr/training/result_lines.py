"""The results of an evaluation or prediction as lines of predictions.jsonl, written and read back one by one.

{"image": "a.jpg", "words": {...}}                                                  a prediction
{"image": "a.jpg", "words": {...}, "matches": [[m, t, p], ...], "characters": [...],
 "review": [...], "below": {...}}                                                   an evaluation: the counts of each metric, what
                                                                                    happened to each text, and the best detections
                                                                                    below box_thresh
{"image": "a.jpg", "failed": "reason"}                                              an image that could not be read
"""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from ocr.datasets.manifest import Manifest
from ocr.datasets.orientation import original_from_stored
from ocr.metrics.cleval import CLEvalCounts
from ocr.metrics.icdar import MatchCounts
from ocr.metrics.review import Review
from ocr.postprocess.boxes import Detections, moved_detections
from ocr.prediction_lines import PredictionLines
from ocr.predictions import entry_of
from ocr.report.reviewed import ReviewedImage
from ocr.report.worst import WorstMaps
from ocr.training.evaluation import ImageResult

MAX_BELOW = 100
"""Largest number of detections below box_thresh in a line."""


class ResultLines:
    """Writes the results of one pass over a split as they come, and reads them back one by one.

    Args:
        lines: the open file.
        manifest: manifest of the split.
        with_truth: the results hold the counts of the metrics.
        draw: draws an image's detections, in pixels of the upright image, given its position in the manifest. Called by the workers
            before the image's line is written, so a line says that its picture is there. None: no pictures.
        worst: keeps the probability maps of the worst images, in the same way; None: no maps.
    """

    def __init__(
        self,
        lines: PredictionLines,
        manifest: Manifest,
        *,
        with_truth: bool,
        draw: Callable[[int, Detections], None] | None = None,
        worst: WorstMaps | None = None,
    ) -> None:
        self.lines = lines
        self.with_truth = with_truth
        self.failures: Callable[[], Mapping[str, str]] = dict
        """Returns the reason for each file of this pass that could not be read, by path."""
        self._manifest, self._draw, self._worst = manifest, draw, worst

    @property
    def num_done(self) -> int:
        """Number of images with a line."""
        return self.lines.num_done

    @property
    def num_images(self) -> int:
        """Number of all images."""
        return len(self._manifest)

    def line_of(self, result: ImageResult) -> bytes:
        """Returns the line of a result, and draws its picture. Any thread may call it."""
        index = result.sample_index
        if index < self.num_done:  # an interrupted run has written the first images of this batch
            return b""
        if self._draw is not None:
            self._draw(index, result.detections_original)
        content: dict[str, Any] = {"image": self._manifest.filenames[index]}
        content |= entry_of(self._manifest, index, result.detections_original)
        if self.with_truth:
            content |= {"matches": result.matches, "characters": result.characters}
        if result.review is not None and result.below_original is not None:
            below = entry_of(self._manifest, index, result.below_original.first(MAX_BELOW))
            content |= {"review": result.review, "below": below["words"]}
        if self._worst is not None and result.levels is not None:
            self._worst.offer(index, result.matches[0], result.levels)
        return json.dumps(content).encode() + b"\n"

    def write(self, result: ImageResult) -> None:
        """Writes the line of a result, after those of images before it that could not be read.

        Raises:
            StorageError: the file cannot be written.
        """
        if result.line:
            self._write_failed_until(result.sample_index)
            self.lines.append(result.line)

    def finish(self) -> None:
        """Writes the lines of the last images if they could not be read. All others have theirs."""
        self._write_failed_until(self.num_images)
        self.lines.flush()

    def entries(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields file name and entry in predictions.json of each image that could be read."""
        for found in self.lines.read():
            if "words" in found:
                yield found["image"], {"words": found["words"]}

    def failed_files(self) -> dict[str, str]:
        """Returns the reason for each file that could not be read, by path."""
        paths, found = self._manifest.image_paths, enumerate(self.lines.read())
        return {paths[index]: content["failed"] for index, content in found if "failed" in content}

    def reviewed(self) -> Iterator[ReviewedImage]:
        """Yields each image of an evaluation that could be read, with its review."""
        for index, found in enumerate(self.lines.read()):
            if "review" in found:
                letters, texts, ious, steps = found["review"]
                yield ReviewedImage(
                    index=index,
                    name=found["image"],
                    detections=partial(self._upright, index, found["words"]),
                    below=partial(self._upright, index, found["below"]),
                    matches=tuple(MatchCounts(*counts) for counts in found["matches"]),
                    characters=CLEvalCounts(*found["characters"]),
                    review=Review(letters, texts, tuple(ious), tuple(map(tuple, steps))),
                )

    def _upright(self, index: int, words: dict[str, Any]) -> Detections:
        polygons = [np.array(word["points"], np.float32) for word in words.values()]
        stored = Detections.from_polygons(polygons, [word["confidence"] for word in words.values()])
        orientation, size = self._manifest.orientations[index], self._manifest.stored_sizes[index]
        height, width = self._manifest.original_sizes[index].tolist()
        return moved_detections(stored, original_from_stored(int(orientation), tuple(size.tolist())), (height, width))

    def _write_failed_until(self, index: int) -> None:
        for failed in range(self.num_done, index):
            reason = self.failures().get(self._manifest.image_paths[failed], "it could not be read")
            content = {"image": self._manifest.filenames[failed], "failed": reason}
            self.lines.append(json.dumps(content).encode() + b"\n")
