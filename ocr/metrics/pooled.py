"""The base class of the metrics, which compute their scores from counts summed over all images."""

from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torchmetrics import Metric

Counts = TypeVar("Counts", bound=NamedTuple)


class PooledMetric(Metric, Generic[Counts]):
    """Sums the counts of single images. The states are integers, so the sums are exact over any number of processes.

    A subclass declares a state for each field of `Counts`, and defines `update` and `compute`.

    Args:
        counts: the type of one image's counts.
    """

    full_state_update = False
    higher_is_better = True

    def __init__(self, counts: type[Counts]) -> None:
        super().__init__()
        for name in counts._fields:
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")

    def add(self, counts: Counts) -> None:
        """Adds the counts of one image, which may come from another thread."""
        self.update([], [], [])  # an empty batch, so that torchmetrics drops a score that it has cached
        self._accumulate(counts)

    def _add_images(self, count: Callable[..., Counts], **columns: Sequence[Any]) -> None:
        """Adds `count(...)` of each image of a batch.

        Args:
            columns: arguments of `count`, one element per image each.

        Raises:
            ValueError: the columns differ in length, or `count` refused an image; the message names it.
        """
        sizes = {name: len(column) for name, column in columns.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"number of images differs: {', '.join(f'{n} {name}' for name, n in sizes.items())}")
        for index, image in enumerate(zip(*columns.values(), strict=True)):
            try:
                counts = count(*image)
            except ValueError as error:
                raise ValueError(f"image {index} of the batch: {error}") from error
            self._accumulate(counts)

    def _accumulate(self, counts: Counts) -> None:
        for name, value in counts._asdict().items():
            setattr(self, name, getattr(self, name) + value)
