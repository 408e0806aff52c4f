"""Chains the plans of successive epochs, so that one epoch's last batches and the next one's first are prepared alike."""

from collections.abc import Iterator

from dali_pipelines.source import PlannedBatch, PlannedBatches


class PlanChain:
    """The batches of a plan, followed by those of the plans that are expected after it.

    A thread draws the batches; the consumer tells from `begun` what follows its own plan.
    """

    def __init__(self, plan: PlannedBatches, first_step: int) -> None:
        self._plan, self._first_step = plan, first_step
        self.begun: list[PlannedBatches] = []
        """Later plans, in order. Each is added before its first batch is drawn, and removed by the consumer that gets there."""

    @property
    def num_later(self) -> int:
        """Number of batches that are sure to follow those of the consumer's plan."""
        return sum(len(plan) for plan in list(self.begun))  # copied: the thread may add a plan

    def batches(self) -> Iterator[PlannedBatch]:
        """Yields the batches of one plan after the other."""
        for step in range(self._first_step, len(self._plan)):
            yield self._plan.batch(step)
        plan = self._plan.following
        while plan is not None:
            self.begun.append(plan)
            for step in range(len(plan)):
                yield plan.batch(step)
            plan = plan.following
