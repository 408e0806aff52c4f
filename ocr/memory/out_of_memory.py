"""The message of a run that is out of memory: which memory, the size of the request, what holds the rest, and what to try."""

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

from dali_pipelines.allocation_errors import FailedAllocation, find_failed_allocation
from ocr.errors import OutOfMemory
from ocr.machine import address_space_limit, free_ram, resident_set, total_ram
from ocr.memory.remedies import Remedy, remedy_text


class ExplainOutOfMemory:
    """Context manager: a failed allocation inside its `with` block becomes an `OutOfMemory`; other errors pass through.

    Args:
        remedies: returns what to try; its argument says whether memory ran out in validation.
        when: the phase of the run, as in "in training, epoch 3"; the callers update it as the run proceeds.
    """

    def __init__(
        self,
        remedies: Callable[[bool], Sequence[Remedy]] = lambda in_validation: (),
        when: str = "before the first step",
    ) -> None:
        self.when = when
        self._remedies = remedies
        self._explanation: OutOfMemory | None = None

    def explain_now(self, error: BaseException, cache_bytes: Mapping[str, int]) -> None:
        """Composes the message while the run still holds its memory: Lightning frees much of it before the error gets out."""
        failed = find_failed_allocation(error)
        if failed is not None:
            self._explanation = self._explain(failed, cache_bytes)

    def _explain(self, failed: FailedAllocation, cache_bytes: Mapping[str, int]) -> OutOfMemory:
        remedies = self._remedies(self.when.startswith("in validation"))
        return OutOfMemory(out_of_memory_text(failed, when=self.when, cache_bytes=cache_bytes, remedies=remedies))

    def __enter__(self) -> "ExplainOutOfMemory":
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        failed = None if isinstance(error, OutOfMemory) else find_failed_allocation(error)
        if failed is not None:
            raise self._explanation or self._explain(failed, {}) from error


def out_of_memory_text(
    failed: FailedAllocation, *, when: str, cache_bytes: Mapping[str, int], remedies: Sequence[Remedy]
) -> str:
    """Returns the message of an `OutOfMemory`. The memory in use is measured now.

    Args:
        when: phase of the run, as in "in training, epoch 3".
        cache_bytes: bytes in caches, by tier: gpu, ram.
    """
    import torch  # here, as in _holders_of_gpu: the command line answers before torch is loaded

    on_gpu = failed.memory == "GPU memory" and torch.cuda.is_available()
    free, total = torch.cuda.mem_get_info() if on_gpu else (free_ram(), total_ram())
    requested = "more than was free" if failed.num_bytes is None else _megabytes(failed.num_bytes)
    ran_out = f"{failed.memory} ran out {when}".rstrip()
    lines = [f"{ran_out}: {failed.requested_by} requested {requested}; {_megabytes(free)} of {_megabytes(total)} free."]
    if on_gpu:
        lines += _holders_of_gpu(total - free, failed.num_bytes, cache_bytes.get("gpu", 0))
    else:
        lines += _holders_of_ram(total - free, cache_bytes.get("ram", 0))
    if remedies:
        lines.append(remedy_text(remedies))
    return "\n".join(lines)


def _holders_of_gpu(used: int, requested: int | None, caches: int) -> list[str]:
    import torch

    held = torch.cuda.memory_reserved()
    unused = held - torch.cuda.memory_allocated()
    lines = [
        f"  torch: {_megabytes(held)}, including {_megabytes(caches)} in caches and {_megabytes(unused)} unused",
        f"  DALI, CUDA and other programs: {_megabytes(max(used - held, 0))}",
    ]
    if requested is not None and unused > requested:
        lines.append(
            "  torch's unused memory is fragmented; PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True before the command may help."
        )
    return lines


def _holders_of_ram(used: int, caches: int) -> list[str]:
    held = resident_set()
    lines = [f"  this process: {_megabytes(held)}, including {_megabytes(caches)} in caches"]
    limit = address_space_limit()
    if limit is not None:
        lines.append(f"  its address space is limited to {_megabytes(limit)} (ulimit -v)")
    lines.append(f"  workers, other programs and the system: {_megabytes(max(used - held, 0))}")
    return lines


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.0f} MB"
