"""Commands from the comparing process to a row's process, and their answers. They are sent through a pipe, pickled."""

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from benchmarks.loaders.config import Level
from benchmarks.loaders.parity import Parity

A = TypeVar("A")


class Command(Generic[A]):
    """A command whose answer has type A, unless the row refuses or fails."""


@dataclass(frozen=True)
class Opened:
    """A loader that is ready and warm."""

    first_batch_seconds: float
    """From making the loader to its first batch."""
    first_epoch_seconds: float | None
    """From making the loader to the last batch of its first epoch; None: the level has a network."""
    warm_up_seconds: float | None
    """First epoch with the network, compilation and choice of algorithms included; None: the level has no network."""
    reads_files: bool
    """Whether epochs after the first read files too."""
    peak_memory: int
    """Bytes of RAM."""
    gpu_bytes: int
    """Bytes of the GPU's memory that opening took."""


@dataclass(frozen=True)
class Open(Command[Opened]):
    """Make the loader for a level and run one epoch, which fills caches, starts workers and warms up the network."""

    level: Level
    num_workers: int


@dataclass
class Round:
    """Whole epochs, timed. `Measurement` derives rates and costs from rounds; results.json holds them all."""

    images: int = 0
    """Number of images in `seconds`."""
    all_images: int = 0
    """Number of images in `wall_seconds`, `cpu_seconds` and `read_bytes`: in training the first batch is not in `seconds`."""
    seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds by stage of a validation epoch: forward, postprocess, blocked."""
    batch_seconds: list[float] = field(default_factory=list)
    """From one batch to the next within an epoch; empty unless `MeasureRound.time_batches`."""
    cpu_seconds: float = 0.0
    """User and system time of the row's process and its workers."""
    wall_seconds: float = 0.0
    read_bytes: int = 0
    """Bytes read from storage."""
    peak_memory: int = 0
    """Bytes of RAM."""
    gpu_bytes: int = 0
    """Bytes of the GPU's memory taken since before the loader was made."""
    gpu_percent: float | None = None
    """Mean utilisation; None: not monitored."""

    def add_epoch(self, epoch: "Round") -> None:
        """Adds images, seconds, stages and batch times of an epoch."""
        self.images += epoch.images
        self.all_images += epoch.all_images
        self.seconds += epoch.seconds
        self.stages = {name: self.stages.get(name, 0.0) + seconds for name, seconds in epoch.stages.items()}
        self.batch_seconds += epoch.batch_seconds


@dataclass(frozen=True)
class MeasureRound(Command[Round]):
    """Run whole epochs until `seconds` have passed."""

    seconds: float
    cold: bool = False
    """Drop the files from the page cache before each epoch."""
    time_batches: bool = False
    """Wait for each batch and record its time."""


@dataclass(frozen=True)
class CompareWithOracle(Command[Parity]):
    """Compare the batches of one epoch with the oracle."""


@dataclass(frozen=True)
class Closed:
    """The loader has ended; its process waits for the next command."""


@dataclass(frozen=True)
class Close(Command[Closed]):
    """End the loader."""


@dataclass(frozen=True)
class Refused:
    """The row cannot run here or at this level."""

    reason: str


@dataclass(frozen=True)
class Failed:
    """The command raised an error."""

    error: str
