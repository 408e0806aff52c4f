"""Stores entries: as tensors on the GPU and in RAM, and as files on disk.

Entries are in the order of the batches, so a batch is a view of the tensors.
"""

import threading
from collections.abc import Container, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch

from ocr.cache.budget import TierPlan
from ocr.cache.entry import EntryLayout, Tensors
from ocr.cache.files import EntryError, EntryFiles
from ocr.cache.host_memory import allocate_host_memory

MAX_PENDING_WRITES = 8
"""Number of entries that may wait for the disk; with more, filling waits too."""

Key = bytes | None
"""The key of an entry; None: the image cannot be read, so its entry cannot be kept."""


@dataclass(frozen=True)
class _Block:
    """Memory of the entries `start` to `stop - 1`."""

    start: int
    stop: int
    tensors: Tensors
    _views: dict[range, Tensors] = field(default_factory=dict)

    def rows(self, entries: range) -> Tensors:
        """Returns views of these entries. They are built once and reused in each epoch."""
        if entries not in self._views:
            rows = slice(entries.start - self.start, entries.stop - self.start)
            self._views[entries] = {name: tensor[rows] for name, tensor in self.tensors.items()}
        return self._views[entries]


@dataclass
class StoredBatch:
    """The entries of a batch that the store holds."""

    entries: range
    tensors: Tensors
    """(B, ...) views of the store's memory, or separate memory if the batch has no place there. Rows in `missing` are not filled.
    Empty if all rows are missing and the batch has no place."""
    missing: list[int]
    """Rows that must be made."""
    errors: dict[int, EntryError] = field(default_factory=dict)
    """Why a row could not be read from disk, for some of the rows in `missing`."""


class TensorStore:
    """The entries of one rank's share of a split.

    Args:
        plan: number of entries on the GPU, in RAM and on disk.
        device: device of the batches.
        files: disk tier; None: no disk tier.
    """

    def __init__(
        self, layout: EntryLayout, plan: TierPlan, device: torch.device, files: EntryFiles | None = None
    ) -> None:
        self.layout = layout
        self.plan = plan
        self.device = device
        self.files = files
        self._wanted: list[Key] = [None] * plan.num_entries
        self._resident: list[Key] = [None] * plan.num_entries
        """Key under which each entry's memory was filled; None: the memory holds nothing valid."""
        self._is_resident = np.zeros(plan.num_entries, np.bool_)
        """Whether each entry has a key in `_resident`. An array, because it is counted and read a batch at a time."""
        self._on_disk = np.zeros(plan.num_entries, np.bool_)
        self._blocks = self._allocate()
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._writer = ThreadPoolExecutor(1, "cache-writer") if files is not None else None
        self._writes: list[Future[None]] = []
        self._write_slots = threading.BoundedSemaphore(MAX_PENDING_WRITES)

    def _allocate(self) -> list[_Block]:
        """Returns the memory of the entries on the GPU and of those in RAM, as far as the plan has any."""
        layout, plan = self.layout, self.plan
        blocks = []
        if plan.num_on_gpu:
            blocks.append(_Block(0, plan.num_on_gpu, layout.allocate(plan.num_on_gpu, self.device)))
        if plan.num_in_ram:
            memory = allocate_host_memory(plan.ram_bytes, self.device if self.device.type == "cuda" else None)
            blocks.append(_Block(plan.num_on_gpu, plan.num_resident, layout.carve(memory, plan.num_in_ram)))
        return blocks

    @property
    def num_kept(self) -> int:
        """Number of valid entries, in memory or on disk."""
        return int(np.count_nonzero(self._is_resident | self._on_disk))

    @property
    def resident_entries(self) -> list[int]:
        """Entries that are valid in memory: the next epoch neither makes nor reads them."""
        entries: list[int] = np.flatnonzero(self._is_resident).tolist()
        return entries

    @property
    def num_bytes(self) -> dict[str, int]:
        """Bytes by tier: allocated memory for gpu and ram, all entries in the folder for disk."""
        num_bytes = {"gpu": 0, "ram": 0}
        for block in self._blocks:
            for tensor in block.tensors.values():
                num_bytes["gpu" if tensor.is_cuda else "ram"] += tensor.nbytes
        return num_bytes | ({"disk": self.files.num_bytes} if self.files is not None else {})

    def refresh(self, keys: Sequence[Key]) -> None:
        """Sets the key of each entry. Memory that was filled under another key becomes invalid."""
        if self._stream is not None:
            self._stream.synchronize()  # once an epoch: files are read into memory by the host, which would overtake a copy
        self._wanted = list(keys)
        for entry, key in enumerate(keys):
            if key is None or self._resident[entry] != key:
                self._set_resident(entry, None)
            self._on_disk[entry] = key is not None and self.files is not None and self.files.has(key)
        if self.files is not None:
            self.files.mark_used(
                key for key, found in zip(keys, self._on_disk.tolist(), strict=True) if found and key is not None
            )

    def has(self, entry: int) -> bool:
        """Returns whether the entry is held under its present key."""
        return bool(self._is_resident[entry] or self._on_disk[entry])

    def is_view(self, entries: range) -> bool:
        """Returns whether the whole batch is valid in the device's memory, so that it is served without a copy."""
        block = self._block(entries)
        return (
            block is not None
            and next(iter(block.tensors.values())).device.type == self.device.type
            and bool(self._is_resident[entries.start : entries.stop].all())
        )

    def read(self, entries: range) -> StoredBatch:
        """Returns the stored entries of a batch; those not in memory are read from disk. May be called in a second thread."""
        block = self._block(entries)
        is_resident = self._is_resident[entries.start : entries.stop]
        on_disk = self._on_disk[entries.start : entries.stop]
        from_disk: list[int] = np.flatnonzero(~is_resident & on_disk).tolist()
        missing: list[int] = np.flatnonzero(~is_resident & ~on_disk).tolist()
        if block is None and not from_disk:
            return StoredBatch(entries, {}, missing)
        tensors = self._own_memory(len(entries)) if block is None else block.rows(entries)
        errors: dict[int, EntryError] = {}
        for row in from_disk:
            key = self._wanted[entries[row]]
            try:
                self._read_file(key, {name: tensor[row] for name, tensor in tensors.items()})
            except EntryError as error:
                errors[row] = error
                continue
            if block is not None:
                self._set_resident(entries[row], key)
        return StoredBatch(entries, tensors, sorted(missing + list(errors)), errors)

    def fill(
        self, batch: StoredBatch, made: Tensors, keep: Sequence[bool], memory_only: Container[int] = ()
    ) -> Tensors:
        """Fills the missing rows of a batch and returns the whole batch on the device, which nobody may write to.

        Args:
            made: (M, ...) on the device, the M missing rows in order.
            keep: whether each of these rows may be served again.
            memory_only: entries that are kept in memory and never reach the disk.
        """
        has_place = self._block(batch.entries) is not None
        self._copy(made, batch)
        for number, row in enumerate(batch.missing):
            entry = batch.entries[row]
            self._set_resident(entry, self._wanted[entry] if has_place and keep[number] else None)
            if keep[number] and entry not in memory_only:
                self._write(entry, {name: tensor[number] for name, tensor in made.items()})
        if len(batch.missing) == len(batch.entries) and (not batch.tensors or self.device.type == "cuda"):
            return made
        return self.upload(batch.tensors)

    def _copy(self, made: Tensors, batch: StoredBatch) -> None:
        """Copies entries to the missing rows of a batch.

        From the GPU to pinned RAM on the store's own stream, so that the thread that launches kernels does not wait. Whoever reads
        these rows does so by `upload`, on the same stream.
        """
        is_download = self._stream is not None and any(not tensor.is_cuda for tensor in batch.tensors.values())
        stream = self._stream if is_download else None
        if stream is not None:
            stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):  # None: the current one
            for name, tensor in batch.tensors.items():
                if len(batch.missing) == len(batch.entries):
                    tensor.copy_(made[name], non_blocking=True)
                else:
                    for number, row in enumerate(batch.missing):
                        tensor[row].copy_(made[name][number], non_blocking=True)
                if stream is not None:
                    made[name].record_stream(stream)

    def upload(self, tensors: Tensors) -> Tensors:
        """Returns the tensors on the device; the copy from pinned memory overlaps with the device's other work."""
        if self._stream is None or all(tensor.is_cuda for tensor in tensors.values()):
            return tensors
        with torch.cuda.stream(self._stream):
            moved = {name: tensor.to(self.device, non_blocking=True) for name, tensor in tensors.items()}
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self._stream)
        for tensor in moved.values():
            tensor.record_stream(current)
        return moved

    def forget(self, entry: int) -> None:
        """Drops a bad entry from memory and disk."""
        key = self._wanted[entry]
        if self.files is not None and key is not None:
            self.files.remove(key)
        self._set_resident(entry, None)
        self._on_disk[entry] = False

    def flush(self) -> None:
        """Waits until all pending entries are on disk."""
        writes, self._writes = self._writes, []
        for write in writes:
            write.result()

    def close(self) -> None:
        """Ends the writing thread and drops all entries in memory. A batch that is still in use keeps its block of memory."""
        self._blocks = []
        self._resident = [None] * self.plan.num_entries
        self._is_resident[:] = False
        if self._writer is not None:
            self._writer.shutdown()

    def _set_resident(self, entry: int, key: Key) -> None:
        self._resident[entry] = key
        self._is_resident[entry] = key is not None

    def _block(self, entries: range) -> _Block | None:
        """Returns the memory block that holds the batch, or None if the batch has no place in memory."""
        return next((b for b in self._blocks if b.start <= entries.start and entries.stop <= b.stop), None)

    def _own_memory(self, num_entries: int) -> Tensors:
        # New for each batch, because the caller may keep it. Torch rounds pinned tensors up and reuses freed ones, which is right
        # for a few batches.
        return self.layout.allocate(num_entries, "cpu", pin_memory=self.device.type == "cuda")

    def _read_file(self, key: Key, row: Tensors) -> None:
        if self.files is None or key is None:
            raise EntryError("this entry has no file")
        on_host = {
            name: tensor if not tensor.is_cuda else torch.empty_like(tensor, device="cpu")
            for name, tensor in row.items()
        }
        self.files.read(key, [_bytes(tensor) for tensor in on_host.values()])
        for name, tensor in row.items():
            if tensor.is_cuda:
                tensor.copy_(on_host[name])

    def _write(self, entry: int, row: Tensors) -> None:
        key = self._wanted[entry]
        if self._writer is None or key is None or self._on_disk[entry]:
            return
        self._write_slots.acquire()
        self._writes.append(self._writer.submit(self._write_file, entry, key, row))

    def _write_file(self, entry: int, key: bytes, row: Tensors) -> None:
        try:
            if self.files is not None and self.files.write(key, [_bytes(tensor.cpu()) for tensor in row.values()]):
                self._on_disk[entry] = True
        finally:
            self._write_slots.release()


def _bytes(tensor: torch.Tensor) -> np.ndarray:
    """Returns the memory of a contiguous CPU tensor as bytes, without a copy."""
    return tensor.reshape(-1).view(torch.uint8).numpy()
