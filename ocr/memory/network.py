"""Memory of a network: the bytes that persist between steps, and the bytes that a step adds."""

from dataclasses import dataclass


@dataclass(frozen=True)
class NetworkMemory:
    """Bytes that persist between steps."""

    weights: int
    """Weights and buffers, and their moving average if there is one."""
    gradients: int
    """Gradients and, with several ranks, the buckets for their sum."""
    optimizer_state: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer_state


@dataclass(frozen=True)
class StepMemory:
    """Bytes that steps need in addition to `NetworkMemory`."""

    training: int
    """Activations, inputs, targets and workspaces of a training step."""
    validation: int
    """Bytes that a validation step needs beyond the memory that a training step leaves free for it. With CUDA graphs, which keep
    their memory, all bytes of a validation step."""
    was_enough: bool = True
    """False: memory ran out during the measurement. The bytes are those allocated until then."""
