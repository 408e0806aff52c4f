"""Redoes a batch that DALI failed on, so that a damaged file costs its own slot and not the run.

DALI reports an error for the batch, often without the file's name. So each sample is rendered alone. The samples that fail again
are at fault, unless all of them fail and every file decodes: then the error has another cause and is raised. Later batches leave
the files at fault out; see `feed.FailedFiles`.
"""

import io
import logging
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

from dali_pipelines.allocation_errors import reraise_if_out_of_memory
from dali_pipelines.feed import SampleArrays
from dali_pipelines.graphs import GraphBuilder
from dali_pipelines.rendering import IMAGE_REPLACED
from dali_pipelines.source import ImageBatch, PlannedBatch, SampleError

log = logging.getLogger(__name__)


class BatchRecovery:
    """Redoes failed batches of one split.

    Args:
        render_alone: returns the finished image of a batch of one sample, (3, H, W), from another pipeline than the batch's.
        failures: reason for each file that failed; filled here.
        skip_failures: a file at fault loses its slot; otherwise SampleError.
    """

    def __init__(
        self,
        arrays: SampleArrays,
        graphs: GraphBuilder,
        render_alone: Callable[[PlannedBatch], torch.Tensor],
        failures: dict[str, str],
        *,
        skip_failures: bool,
    ) -> None:
        self._arrays = arrays
        self._graphs = graphs
        self._render_alone = render_alone
        self._failures = failures
        self._skip_failures = skip_failures

    def redo(self, samples: PlannedBatch, images: torch.Tensor, batch_error: RuntimeError) -> ImageBatch:
        """Returns the batch, with the samples at fault marked as failed. A read error that does not recur costs nothing.

        Args:
            images: (B, 3, H, W) black; filled where a sample renders.

        Raises:
            RuntimeError: `batch_error`, if every sample fails and none because of its file.
            SampleError: a file is at fault, and failures are not skipped.
        """
        reasons = self._render_each(samples, images)
        if len(reasons) == len(samples) and not any(
            self._is_fault_of_file(int(samples.indices[slot]), reason) for slot, reason in reasons.items()
        ):
            raise batch_error
        for slot, reason in reasons.items():
            self._record(int(samples.indices[slot]), reason, batch_error)
        return ImageBatch(images, samples.with_failed(list(reasons)))

    def _render_each(self, samples: PlannedBatch, images: torch.Tensor) -> dict[int, str]:
        """Fills `images` and returns the reason for each slot that failed, now or before."""
        reasons = {}
        _, sound_rows = self._arrays.failed_files.choose(samples)
        for slot, index in enumerate(samples.indices.tolist()):
            if slot not in sound_rows:
                reasons[slot] = self._failures[self._arrays.images.paths[index]]
                continue
            replaced = self._replacement(index)
            if replaced is not None:
                reasons[slot] = replaced
                continue
            try:
                images[slot] = self._render_alone(samples.select([slot]))
            except RuntimeError as error:
                reraise_if_out_of_memory(error)
                reasons[slot] = self._arrays.read_errors.get(index) or " ".join(str(error).split())
        return reasons

    def _replacement(self, index: int) -> str | None:
        """Returns the reason if the header of an image states another size, or more pixels than are allowed; else None.

        Without sizes in `SourceImages` any size will do. On a CPU rendering compares it, once the image is decoded.
        """
        kept = self._arrays.images.kept
        if kept is not None and kept.decoded(index) is not None:
            return None
        limit, content = self._graphs.config.max_megapixels, self._arrays.content(index)
        try:
            with Image.open(self._arrays.images.paths[index] if content is None else io.BytesIO(content.data)) as image:
                width, height = image.size
        except Image.DecompressionBombError:
            return f"the image has far more than {limit:g} megapixels: {IMAGE_REPLACED}"
        except (OSError, SyntaxError, ValueError):  # damaged, or at s3://: DALI says what is wrong
            return None
        if width * height > limit * 1e6:
            return f"the image is {width} x {height} pixels, expected at most {limit:g} megapixels: {IMAGE_REPLACED}"
        sizes = self._arrays.images.stored_sizes
        if sizes is None or self._graphs.device.type == "cpu" or (height, width) == tuple(sizes[index].tolist()):
            return None
        return (
            f"the image is {width} x {height} pixels, expected {sizes[index, 1]} x {sizes[index, 0]}: {IMAGE_REPLACED}"
        )

    def _is_fault_of_file(self, index: int, reason: str) -> bool:
        """Returns whether a sample that failed would fail in any graph."""
        # DALI passes on only the text of a Python error.
        if index in self._arrays.read_errors or IMAGE_REPLACED in reason:
            return True
        kept = self._arrays.images.kept
        if kept is not None and kept.decoded(index) is not None:
            return False
        content = self._arrays.content(index)
        fed = self._arrays.path_bytes(index) if content is None else content
        pipeline = self._graphs.build_decoder(lambda: ([fed],), is_path=content is None)
        try:
            pipeline.run()
        except RuntimeError as error:
            reraise_if_out_of_memory(error)
            return True
        return False

    def _is_damaged(self, index: int, reason: str) -> bool:
        """Returns whether what a file that failed holds is at fault, and not the reading of it."""
        if index in self._arrays.read_errors:
            return False
        if IMAGE_REPLACED in reason:
            return True
        try:
            content = self._arrays.content(index)
            data = Path(self._arrays.images.paths[index]).read_bytes() if content is None else content.data
        except OSError:
            return False
        try:
            with Image.open(io.BytesIO(data)) as image:
                image.load()
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            return True
        return False

    def _record(self, index: int, reason: str, error: RuntimeError) -> None:
        path = self._arrays.images.paths[index]
        if not self._skip_failures:
            raise SampleError(f"{path}: DALI failed to process this file: {reason}") from error
        self._arrays.failed_files.add(index, is_damaged=self._is_damaged(index, reason))
        if path not in self._failures:
            log.error("%s: skipped: DALI failed to process this file: %s", path, reason)
        self._failures[path] = reason
