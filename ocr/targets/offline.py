"""Target maps on disk: one .npz an image, written by scripts/prepare_data.py, for splits without randomness.

    <maps_dir>/<filename>.npz    prob_map, prob_mask, thresh_mask   (Hm, Wm) uint8, 0 or 1
                                 thresh_map                         (Hm, Wm) float16
                                 key                                SHA-256 of all that the maps depend on

Maps are served when their key is the one asked for, and made on the fly otherwise: a changed polygon, size, setting or line
of code in this package never gets old maps. As float16 the threshold map is off by at most 2^-12 (0.00025).

Files are deflated at level 1: at 640 that is 24 KB and 0.9 ms to read, uncompressed 2 MB and 0.7 ms; at 1600 109 KB and
3.7 ms, uncompressed 12.5 MB and 11.9 ms (58 text lines, files in the page cache, one core). A whole batch of 4 at 640 takes
4.7 ms from files, 0.9 ms from RAM, and 1.6 ms to make; at 1600 28, 11 and 13 ms. So files pay where cores draw more slowly
or are busy, or where other programs want the maps.
"""

import hashlib
import io
import logging
import sys
import threading
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import track

from ocr.atomic_write import write_atomically
from ocr.environment import digest_of_sources
from ocr.polygons import PolygonBatch
from ocr.targets.config import TargetConfig
from ocr.targets.maps import make_targets
from ocr.targets.target_maps import TargetMaps

log = logging.getLogger(__name__)

DTYPES = {"prob_map": np.uint8, "prob_mask": np.uint8, "thresh_map": np.float16, "thresh_mask": np.uint8}
"""Arrays of a file, in the order of the fields of `TargetMaps`."""
COMPRESSION_LEVEL = 1

MISSING, STALE, DAMAGED = "missing", "stale", "damaged"
"""Why maps of a file are not served. Stale: made from other annotations, another size, other settings or other code."""


class UnfitMaps(Exception):
    """The maps of a file are not those asked for."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        """MISSING, STALE or DAMAGED."""


def maps_file(directory: Path, filename: str) -> Path:
    """Where the maps of an image are. The whole name is kept, so that a.png and a.jpg stay apart."""
    return directory / f"{filename}.npz"


def maps_key(polygons_input: PolygonBatch, size: tuple[int, int], config: TargetConfig) -> str:
    """SHA-256, in hex, of all that the maps of one image depend on.

    Args:
        polygons_input: of one image, in the input frame.
        size: (H, W) of the input.
    """
    digest = hashlib.sha256(f"{_code_digest()} {config.model_dump_json()} {size[0]} {size[1]}".encode())
    for part in (polygons_input.vertices, polygons_input.vertex_starts, polygons_input.ignore):
        digest.update(part.nbytes.to_bytes(8, "little") + np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


@cache
def _code_digest() -> str:
    """Of this package's source: another one after any change of what makes or stores maps."""
    return digest_of_sources([Path(__file__).parent])


def write_maps(path: Path, maps: TargetMaps, key: str) -> int:
    """Writes the maps of one image, (1, Hm, Wm) each, on any device; the file is there whole or not at all.

    Returns:
        Bytes of the file.

    Raises:
        OSError: it cannot be written.
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
    """What a file holds; whether it is what is asked for shows in `check`."""

    path: Path
    key: str
    arrays: dict[str, npt.NDArray[np.generic]]

    @property
    def num_bytes(self) -> int:
        return sum(array.nbytes for array in self.arrays.values())

    def check(self, key: str, map_size: tuple[int, int]) -> None:
        """Raises UnfitMaps unless these are the maps of the key."""
        if self.key != key:
            what = "other annotations, another size, other settings or other code"
            raise UnfitMaps(STALE, f"{self.path}: made from {what}")
        for name, dtype in DTYPES.items():
            array = self.arrays[name]
            if array.shape != map_size or array.dtype != dtype:
                found, expected = f"{array.dtype} {array.shape}", f"{np.dtype(dtype)} {map_size}"
                raise UnfitMaps(DAMAGED, f"{self.path}: {name} is {found}; {expected} expected")


def _read_file(path: Path) -> _StoredMaps:
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
            return _StoredMaps(path, str(archive["key"]), {name: archive[name] for name in DTYPES})
    except FileNotFoundError:
        raise UnfitMaps(MISSING, f"{path}: there is no such file") from None
    except Exception as error:  # of broken archives zipfile, zlib and NumPy raise nearly everything
        raise UnfitMaps(DAMAGED, f"{path}: not a whole file of maps: {type(error).__name__}: {error}") from error


def check_maps(path: Path, key: str, map_size: tuple[int, int]) -> None:
    """Returns where the file holds the maps of this key, whole.

    Raises:
        UnfitMaps: it does not; the message says why.
    """
    _read_file(path).check(key, map_size)


class OfflineMaps:
    """The maps of one split: read where a file has them, made on the fly where not, and counted. Safe to use from threads.

    Args:
        directory: folder of the files; need not be there.
        filenames: of the images, as in the manifest.
        config: the maps that are wanted.
        keep: keep files in RAM once they were read.
    """

    def __init__(self, directory: str | Path, filenames: Sequence[str], config: TargetConfig, keep: bool) -> None:
        self.hits = 0
        """Maps that a file gave, each time they were asked for."""
        self.fallbacks = 0
        """Maps made on the fly, each time they were asked for."""
        self._directory = Path(directory)
        self._paths = [maps_file(self._directory, filename) for filename in filenames]
        self._config = config
        self._keep = keep
        self._kept: dict[int, _StoredMaps] = {}
        self._asked: set[int] = set()
        self._reasons: dict[int, str] = {}
        self._num_warned = 0
        self._lock = threading.Lock()

    @property
    def num_kept(self) -> int:
        """Images whose maps are in RAM."""
        return len(self._kept)

    @property
    def num_bytes(self) -> int:
        """Of the maps in RAM: 5 a map pixel, 2 MB an image at 640."""
        with self._lock:
            return sum(maps.num_bytes for maps in self._kept.values())

    def file_bytes(self, indices: Sequence[int]) -> int:
        """Of the files of these images."""
        return sum(self._paths[index].stat().st_size for index in indices if self._paths[index].is_file())

    def clear(self) -> None:
        """Drops the files in RAM."""
        with self._lock:
            self._kept.clear()

    def preload(self, indices: Sequence[int] | None = None) -> None:
        """Reads the files of these images (None: of all) into RAM, with a progress bar.

        Whether their maps fit shows when they are asked for.
        """
        wanted = range(len(self._paths)) if indices is None else indices
        shown = track(
            wanted,
            "Preloading maps",
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        for index in shown:
            try:
                stored = _read_file(self._paths[index])
            except UnfitMaps as unfit:
                log.debug("%s", unfit)
                continue
            with self._lock:
                self._kept[index] = stored
        share = self.num_kept / max(len(wanted), 1)
        size = self.num_bytes / 1e6
        log.info("Preloaded %d/%d maps into RAM (%.1f%%), %.1f MB", self.num_kept, len(wanted), 100 * share, size)

    def targets(
        self,
        indices: Sequence[int],
        polygons_input: PolygonBatch,
        size: tuple[int, int],
        device: torch.device | str = "cpu",
    ) -> TargetMaps:
        """The maps of a batch, float32 on the device: what `make_targets` gives, `thresh_map` rounded to float16 where read.

        Args:
            indices: B places in `filenames`.
            polygons_input: their polygons, in the input frame.
            size: (H, W) of the input.
        """
        if len(indices) != len(polygons_input):
            raise ValueError(
                f"{len(indices)} indices for the polygons of {len(polygons_input)} images; one each is needed"
            )
        read = [self._read(index, polygons_input.select([place]), size) for place, index in enumerate(indices)]
        unread = [place for place, stored in enumerate(read) if stored is None]
        if len(unread) == len(read):
            return make_targets(polygons_input, size, self._config, device)
        shape = (len(DTYPES), len(read), *self._map_size(size))
        if torch.device(device).type == "cpu":
            maps = torch.from_numpy(
                np.empty(shape, np.float32)
            )  # NumPy takes huge pages: 0.6 against 8 ms for 4 at 640
        else:
            maps = torch.empty(shape, device=device)
        for place, stored in enumerate(read):
            if stored is not None:
                for field, name in enumerate(DTYPES):
                    # Uploaded in its own small type, widened on the device.
                    maps[field, place].copy_(torch.from_numpy(stored.arrays[name]).to(device))
        if unread:
            made = make_targets(polygons_input.select(unread), size, self._config, device)
            maps[:, unread] = torch.stack([made.shrink_map, made.shrink_mask, made.thresh_map, made.thresh_mask])
        return TargetMaps(*maps)

    def fallback_line(self) -> str:
        """How many of the samples asked for so far had no maps when they were last asked for."""
        num_fallbacks, num_asked = len(self._reasons), len(self._asked)
        share = num_fallbacks / max(num_asked, 1)
        return f"Fallback to on-the-fly generation: {num_fallbacks}/{num_asked} samples ({share:.1%})"

    def warn_of_fallbacks(self) -> None:
        """Logs `fallback_line`, the commonest reason and what to do; nothing where there is nothing new to tell.

        To be called at the end of an epoch.
        """
        with self._lock:
            counts, num_before = Counter(self._reasons.values()), self._num_warned
            self._num_warned = len(self._reasons)
        if counts and self._num_warned != num_before:
            ((reason, count),) = counts.most_common(1)
            log.warning(
                "%s; %d of them because the file in %s is %s. Run scripts/prepare_data.py with the same pipeline and targets "
                "settings, or set load_maps=false.",
                self.fallback_line(),
                count,
                self._directory,
                reason,
            )

    def _read(self, index: int, polygons_input: PolygonBatch, size: tuple[int, int]) -> _StoredMaps | None:
        """The stored maps of one image, or None where they have to be made."""
        key = maps_key(polygons_input, size, self._config)
        try:
            stored = self._kept_or_read(index, key, self._map_size(size))
        except UnfitMaps as unfit:
            with self._lock:
                self.fallbacks += 1
                self._asked.add(index)
                is_new = self._reasons.get(index) != unfit.reason
                self._reasons[index] = unfit.reason
                self._kept.pop(index, None)
            if is_new:
                log.debug("made on the fly: %s", unfit)
            return None
        with self._lock:
            self.hits += 1
            self._asked.add(index)
            self._reasons.pop(index, None)
        return stored

    def _kept_or_read(self, index: int, key: str, map_size: tuple[int, int]) -> _StoredMaps:
        kept = self._kept.get(index)
        if kept is not None and kept.key == key:
            kept.check(key, map_size)
            return kept
        stored = _read_file(self._paths[index])  # also where those kept do not fit: it may have been made anew since
        stored.check(key, map_size)
        if self._keep:
            with self._lock:
                self._kept[index] = stored
        return stored

    def _map_size(self, size: tuple[int, int]) -> tuple[int, int]:
        return size[0] // self._config.map_stride, size[1] // self._config.map_stride
