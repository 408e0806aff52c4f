"""Target maps on disk: one .npz per image, written by scripts/prepare_data.py, for splits without random augmentation.

    <maps_dir>/<filename>.npz    prob_map, thresh_mask              (Hm, Wm) uint8, 0 or 1
                                 prob_mask                          (Hm, Wm) uint8, the weight of a pixel, 0 to 255
                                 thresh_map                         (Hm, Wm) float16
                                 key                                SHA-256 of everything the maps depend on

Maps are read if their key matches, and drawn on the fly otherwise. So old maps are never used after a change of a polygon, a size,
a setting or the code of this package. Rounding the threshold map to float16 changes it by at most 2^-12 (0.00025).

Files are deflated at level 1. At 640 a file takes 24 KB and 0.9 ms to read, uncompressed 2 MB and 0.7 ms; at 1600 109 KB and 3.7
ms, uncompressed 12.5 MB and 11.9 ms (58 text lines, files in the page cache, one core). A batch of 4 at 640 takes 4.7 ms from
files, 0.9 ms from RAM, and 1.6 ms to draw; at 1600 28, 11 and 13 ms. So files help where cores are slower or busy, or where other
programs need the maps.
"""

import hashlib
import io
import logging
import math
import threading
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ocr.atomic_write import write_atomically
from ocr.environment import digest_of_sources
from ocr.file_names import with_ending
from ocr.polygons import PolygonBatch
from ocr.progress import followed
from ocr.targets.config import TargetConfig
from ocr.targets.maps import make_targets
from ocr.targets.outline import Outlines
from ocr.targets.target_maps import TargetMaps

log = logging.getLogger(__name__)

DTYPES = {"prob_map": np.uint8, "prob_mask": np.uint8, "thresh_map": np.float16, "thresh_mask": np.uint8}
"""Arrays of a file, in the order of `TargetMaps`."""
BYTES_PER_PIXEL = sum(np.dtype(dtype).itemsize for dtype in DTYPES.values())
"""Bytes of the maps of one image in RAM, per map pixel."""
COMPRESSION_LEVEL = 1

_MAX_KEY_BYTES = 4 * 64
"""A SHA-256 in hex, as NumPy stores text."""
_MAX_MAP_BYTES = 2 * 8192**2
"""Largest array that is read into RAM before the size of the wanted maps is known."""

MISSING, STALE, DAMAGED = "missing", "stale", "damaged"
"""Reasons why a file is not used. Stale: drawn from other annotations, another size, other settings or other code."""


class UnfitMaps(Exception):
    """A file does not hold the required maps."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        """MISSING, STALE or DAMAGED."""


def maps_name(filename: str) -> str:
    """Returns the file name of an image's maps. It contains the whole image name, so that a.png and a.jpg differ."""
    return with_ending(filename, ".npz")


def maps_file(directory: Path, filename: str) -> Path:
    """Returns the file to read an image's maps from."""
    return directory / maps_name(filename)


def maps_key(polygons_input: PolygonBatch, size: tuple[int, int], config: TargetConfig) -> str:
    """Returns the SHA-256, in hex, of everything that the maps of one image depend on.

    Args:
        polygons_input: polygons of one image, in the input frame.
        size: (H, W) of the input.
    """
    digest = hashlib.sha256(f"{_code_digest()} {config.model_dump_json()} {size[0]} {size[1]}".encode())
    for part in (polygons_input.vertices, polygons_input.vertex_starts, polygons_input.ignore):
        digest.update(part.nbytes.to_bytes(8, "little") + np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


@cache
def _code_digest() -> str:
    """Returns a digest of this package's source, which changes with the code that draws or stores maps."""
    return digest_of_sources([Path(__file__).parent])


def write_maps(path: Path, maps: TargetMaps, key: str) -> int:
    """Writes the maps of one image, (1, Hm, Wm) each, on any device. The file appears complete or not at all.

    Returns:
        Size of the file in bytes.

    Raises:
        OSError: the file cannot be written.
    """
    tensors = (maps.shrink_map, maps.shrink_mask, maps.thresh_map, maps.thresh_mask)
    arrays = {
        name: tensor[0].cpu().numpy().astype(dtype)
        for (name, dtype), tensor in zip(DTYPES.items(), tensors, strict=True)
    }
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=COMPRESSION_LEVEL) as archive:
        for name, array in ({"key": np.array(key)} | arrays).items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    write_atomically(path, file.getvalue())
    return file.tell()


@dataclass(frozen=True)
class _StoredMaps:
    """The content of a file; `check` compares it with the wanted maps."""

    path: Path
    key: str
    arrays: dict[str, npt.NDArray[np.generic]]

    @property
    def num_bytes(self) -> int:
        """Bytes of the maps in memory."""
        return sum(array.nbytes for array in self.arrays.values())

    def check(self, key: str, map_size: tuple[int, int]) -> None:
        """Raises UnfitMaps unless these are the maps of this key, in this size."""
        if self.key != key:
            what = "other annotations, another size, other settings or other code"
            raise UnfitMaps(STALE, f"{self.path}: drawn from {what}")
        for name, dtype in DTYPES.items():
            array = self.arrays[name]
            if array.shape != map_size or array.dtype != dtype:
                found, expected = f"{array.dtype} {array.shape}", f"{np.dtype(dtype)} {map_size}"
                raise UnfitMaps(DAMAGED, f"{self.path}: {name} is {found}; expected {expected}")


def _read_file(path: Path, map_size: tuple[int, int] | None = None) -> _StoredMaps:
    """Returns the maps of a file. A member that cannot be theirs is refused by its header: 3 MB may unpack to 3 GB.

    Args:
        map_size: (H, W) of the wanted maps; None: any size that pictures have.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
            key = _read_member(archive, "key", None, _MAX_KEY_BYTES)
            largest = _MAX_MAP_BYTES if map_size is None else 2 * map_size[0] * map_size[1]
            return _StoredMaps(
                path, str(key), {name: _read_member(archive, name, DTYPES[name], largest) for name in DTYPES}
            )
    except FileNotFoundError:
        raise UnfitMaps(MISSING, f"{path}: no such file") from None
    except Exception as error:  # zipfile, zlib and NumPy raise nearly every type for broken archives
        raise UnfitMaps(DAMAGED, f"{path}: damaged: {type(error).__name__}: {error}") from error


def _read_member(
    archive: zipfile.ZipFile, name: str, dtype: npt.DTypeLike | None, max_bytes: int
) -> npt.NDArray[np.generic]:
    """Returns one array of an archive.

    Raises:
        ValueError: its header states another data type, or more bytes than `max_bytes`.
    """
    with archive.open(f"{name}.npy") as member:
        version = np.lib.format.read_magic(member)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, found = read_header(member)
    num_bytes = math.prod(shape) * found.itemsize
    if num_bytes > max_bytes or (dtype is not None and found != dtype):
        raise ValueError(f"{name} is {found} {shape}, {num_bytes:,} bytes; expected at most {max_bytes:,} bytes")
    with archive.open(f"{name}.npy") as member:
        return np.lib.format.read_array(member, allow_pickle=False)


def check_maps(path: Path, key: str, map_size: tuple[int, int]) -> None:
    """Checks that a file is complete and holds the maps of this key, in this size.

    Raises:
        UnfitMaps: it does not; the message says why.
    """
    _read_file(path, map_size).check(key, map_size)


class OfflineMaps:
    """The maps of one split: read from files where possible, drawn on the fly otherwise, and counted. Thread-safe.

    Args:
        directory: folder of the files; it need not exist.
        filenames: names of the images, as in the manifest; an absolute one lies outside the folder.
        config: settings of the wanted maps.
    """

    def __init__(self, directory: str | Path, filenames: Sequence[str], config: TargetConfig) -> None:
        self.budget = 0
        """Most bytes of maps that stay in RAM after they have been read."""
        self.hits = 0
        """Number of times that maps came from a file."""
        self.fallbacks = 0
        """Number of times that maps were drawn on the fly."""
        self._directory = Path(directory)
        self._paths = [maps_file(self._directory, filename) for filename in filenames]
        self._config = config
        self._kept: dict[int, _StoredMaps] = {}
        self._num_bytes = 0
        self._used: set[int] = set()
        self._reasons: dict[int, str] = {}
        self._num_warned = 0
        self._lock = threading.Lock()

    @property
    def num_kept(self) -> int:
        """Number of images whose maps are in RAM."""
        return len(self._kept)

    @property
    def num_bytes(self) -> int:
        """Bytes of the maps in RAM."""
        return self._num_bytes

    def bytes_of_one(self, input_size: int) -> int:
        """Returns the bytes in RAM of the maps of one image, for a square input of this side: 2 MB at 640."""
        return BYTES_PER_PIXEL * math.prod(self._map_size((input_size, input_size)))

    def drop(self, indices: Iterable[int]) -> None:
        """Frees the maps of these images in RAM."""
        for index in indices:
            self._replace_kept(index, None)

    def preload(self, indices: Sequence[int] | None = None) -> None:
        """Reads the files of these images (None: all images) into RAM until the budget is spent, with a progress bar.

        Their keys are compared later, when the maps are used.
        """
        wanted = range(len(self._paths)) if indices is None else indices
        for index in followed(wanted, "Preloading maps", len(wanted)):
            try:
                stored = _read_file(self._paths[index])
            except UnfitMaps as unfit:
                log.debug("%s", unfit)
                continue
            self._replace_kept(index, stored)
            if index not in self._kept:
                break
        share = self.num_kept / max(len(wanted), 1)
        size = self.num_bytes / 1e6
        log.info("Preloaded %d/%d maps into RAM (%.1f%%), %.1f MB", self.num_kept, len(wanted), 100 * share, size)

    def targets(
        self,
        indices: Sequence[int],
        polygons_input: PolygonBatch,
        size: tuple[int, int],
        device: torch.device | str = "cpu",
        outlines: Outlines | None = None,
    ) -> TargetMaps:
        """Returns the maps of a batch, float32 on the device. A `thresh_map` from a file is rounded to float16.

        Args:
            indices: B positions in `filenames`.
            polygons_input: polygons of these images, in the input frame.
            size: (H, W) of the input.
            outlines: measures of the polygons; None: they are measured if a file is missing.

        Raises:
            ValueError: the number of indices differs from that of images.
        """
        if len(indices) != len(polygons_input):
            raise ValueError(
                f"{len(indices)} indices for the polygons of {len(polygons_input)} images; one per image is needed"
            )
        read = [self._read(index, polygons_input.select([place]), size) for place, index in enumerate(indices)]
        unread = [place for place, stored in enumerate(read) if stored is None]
        if len(unread) == len(read):
            return make_targets(polygons_input, size, self._config, device, outlines)
        shape = (len(DTYPES), len(read), *self._map_size(size))
        if torch.device(device).type == "cpu":
            # NumPy's memory gets huge pages: 0.6 instead of 8 ms for a batch of 4 at 640.
            on_host = torch.from_numpy(np.empty(shape, np.float32))
        else:
            # One copy a batch, which the host does not wait for. float16 holds every stored number exactly.
            on_host = torch.empty(shape, dtype=torch.float16, pin_memory=True)
        for place, stored in enumerate(read):
            if stored is not None:
                for field, name in enumerate(DTYPES):
                    on_host[field, place].copy_(torch.from_numpy(stored.arrays[name]))
        maps = on_host.to(device, non_blocking=True).float()
        if unread:
            made = make_targets(polygons_input.select(unread), size, self._config, device)
            drawn = torch.stack([made.shrink_map, made.shrink_mask, made.thresh_map, made.thresh_mask])
            for number, place in enumerate(
                unread
            ):  # `maps[:, unread]` would copy the list to the device and wait for it
                maps[:, place].copy_(drawn[:, number])
        return TargetMaps(*maps)

    def fallback_line(self) -> str:
        """Returns a log line with the number of samples whose maps were drawn on the fly the last time they were used."""
        num_fallbacks, num_used = len(self._reasons), len(self._used)
        share = num_fallbacks / max(num_used, 1)
        return f"Fallback to on-the-fly generation: {num_fallbacks}/{num_used} samples ({share:.1%})"

    def warn_of_fallbacks(self) -> None:
        """Logs `fallback_line`, the most frequent reason and what to do, if anything has changed. Call at the end of an epoch."""
        with self._lock:
            counts, num_before = Counter(self._reasons.values()), self._num_warned
            self._num_warned = len(self._reasons)
        if counts and self._num_warned != num_before:
            ((reason, count),) = counts.most_common(1)
            log.warning(
                "%s; for %d of them the file in %s is %s. Run scripts/prepare_data.py with the same pipeline and targets "
                "settings, or set load_maps=false.",
                self.fallback_line(),
                count,
                self._directory,
                reason,
            )

    def _read(self, index: int, polygons_input: PolygonBatch, size: tuple[int, int]) -> _StoredMaps | None:
        """Returns the stored maps of one image, or None if they have to be drawn."""
        key = maps_key(polygons_input, size, self._config)
        try:
            stored = self._kept_or_read(index, key, self._map_size(size))
        except UnfitMaps as unfit:
            with self._lock:
                self.fallbacks += 1
                self._used.add(index)
                is_new = self._reasons.get(index) != unfit.reason
                self._reasons[index] = unfit.reason
            self._replace_kept(index, None)
            if is_new:
                log.debug("drawn on the fly: %s", unfit)
            return None
        with self._lock:
            self.hits += 1
            self._used.add(index)
            self._reasons.pop(index, None)
        return stored

    def _kept_or_read(self, index: int, key: str, map_size: tuple[int, int]) -> _StoredMaps:
        kept = self._kept.get(index)
        if kept is not None and kept.key == key:
            kept.check(key, map_size)
            return kept
        # Also if the kept maps are stale: the file may have been rewritten.
        stored = _read_file(self._paths[index], map_size)
        stored.check(key, map_size)
        self._replace_kept(index, stored)
        return stored

    def _replace_kept(self, index: int, stored: _StoredMaps | None) -> None:
        """Keeps the maps of one image, if the budget allows, in place of those kept before; None: keeps none."""
        with self._lock:
            before = self._kept.pop(index, None)
            if before is not None:
                self._num_bytes -= before.num_bytes
            if stored is not None and self._num_bytes + stored.num_bytes <= self.budget:
                self._kept[index] = stored
                self._num_bytes += stored.num_bytes

    def _map_size(self, size: tuple[int, int]) -> tuple[int, int]:
        return size[0] // self._config.map_stride, size[1] // self._config.map_stride
