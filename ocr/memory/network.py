"""What a network takes of the memory: what lasts from step to step, and what a step adds."""

from dataclasses import dataclass


@dataclass(frozen=True)
class NetworkMemory:
    """Bytes."""

    weights: int
    """Buffers too, and the moving average of all, if there is one."""
    gradients: int
    """With several ranks also the buckets they are summed in."""
    optimizer_state: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer_state


@dataclass(frozen=True)
class StepMemory:
    """Bytes beside `NetworkMemory`."""

    training: int
    """Activations, inputs, targets and workspaces of a training step."""
    validation: int
    """What a validation step takes beyond the memory that a training step leaves to it; with CUDA graphs, which keep theirs, all
    that it takes."""
    was_enough: bool = True
    """False: memory ran out on the way. The bytes are those that were taken until then."""
