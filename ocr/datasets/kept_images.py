"""Images kept in memory: the bytes of their files, or their decoded, upright pixels.

Files are preloaded before the run; pixels are preloaded too, or kept as the first epoch decodes them. All random steps follow
decoding, so training can start from either. Loaders read the other images from their files.
"""

import logging
import mmap
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch

from dali_pipelines.config import num_cores
from dali_pipelines.signature import Signature
from dali_pipelines.turbojpeg import decode_upright
from ocr.datasets.image_source import ask_each
from ocr.datasets.manifest import Manifest
from ocr.datasets.schemas import DatasetConfig
from ocr.progress import followed

log = logging.getLogger(__name__)

Content = npt.NDArray[np.uint8]


class DecodedImages:
    """The pixels of a split in one block of memory, each image with its own place and a flag.

    Processes that are forked later share the block, so all of them see what a worker keeps. No lock is needed. An image is
    written before its flag is set, and never again; two processes that keep the same image write the same bytes. A reader in
    the same epoch may miss the flag, and then decodes the image itself; between epochs, batches pass through a queue.

    Args:
        sizes: (N, 2) (H, W) of the upright images, by index.
        budget: bytes of the block; images beyond it have no place.
        device: device of the block.
        indices: images that get a place, in this order; None: all.
    """

    def __init__(
        self, sizes: npt.ArrayLike, budget: int, device: torch.device, indices: Sequence[int] | None = None
    ) -> None:
        self.device = device
        self._sizes = np.asarray(sizes, np.int64).reshape(-1, 2)
        order = np.arange(len(self._sizes)) if indices is None else np.asarray(indices, np.int64)
        ends = np.cumsum(3 * np.prod(self._sizes[order], axis=1))
        num_places = int(np.searchsorted(ends, budget, side="right"))
        self._starts = np.full(len(self._sizes), -1, np.int64)
        self._starts[order[:num_places]] = np.concatenate([[0], ends])[:num_places]
        self.capacity = int(ends[num_places - 1]) if num_places else 0
        """Bytes of the block."""
        self.num_places = num_places
        self._pixels = (
            torch.empty(self.capacity, dtype=torch.uint8, device=device)
            if device.type == "cuda"
            else torch.from_numpy(shared_bytes(self.capacity))
        )
        self._is_filled = shared_bytes(len(self._sizes))

    @property
    def num_images(self) -> int:
        """Number of images in the block."""
        return int(np.count_nonzero(self._is_filled))

    @property
    def num_bytes(self) -> int:
        """Bytes of the images in the block."""
        return int(3 * np.prod(self._sizes[self.is_filled], axis=1).sum())

    @property
    def is_filled(self) -> npt.NDArray[np.bool_]:
        """(N,) whether each image is in the block; a view."""
        return self._is_filled.view(np.bool_)

    def get(self, index: int) -> torch.Tensor | None:
        """Returns an image, (H, W, 3) uint8, as a view; None: it is not in the block."""
        return self._place(index) if self._is_filled[index] else None

    def wants(self, index: int) -> bool:
        """Returns whether this image has an empty place."""
        return bool(self._starts[index] >= 0 and not self._is_filled[index])

    def wants_any(self) -> bool:
        """Returns whether any image has an empty place."""
        return bool(((self._starts >= 0) & ~self.is_filled).any())

    def keep(self, index: int, image: torch.Tensor) -> None:
        """Copies an image, (H, W, 3) uint8 on any device, into its place.

        Raises:
            ValueError: the image has no place, or not the size of its place.
        """
        height, width = self._sizes[index]
        if image.shape != (height, width, 3):
            raise ValueError(f"(H, W, 3) is {tuple(image.shape)}; expected {(int(height), int(width), 3)}")
        if self._starts[index] < 0:
            raise ValueError("the image has no place within the budget; ask `wants` first")
        self._place(index).copy_(image)
        self._is_filled[index] = 1

    def forget(self, index: int) -> None:
        """Empties an image's place."""
        self._is_filled[index] = 0

    def _place(self, index: int) -> torch.Tensor:
        height, width = (int(side) for side in self._sizes[index])
        start = int(self._starts[index])
        return self._pixels[start : start + 3 * height * width].view(height, width, 3)


class ImageCache:
    """The images of one split in memory, as files or as pixels. Implements `KeptImages` (dali_pipelines/source.py).

    Args:
        image_paths: file of each index.
        files: content of files, by index.
        pixels: decoded images; None: none are kept.
        signatures: signature of each file, taken before any file was read, so that every later change is noticed.
    """

    def __init__(
        self,
        image_paths: Sequence[str],
        files: Mapping[int, Content] | None = None,
        pixels: DecodedImages | None = None,
        signatures: Mapping[int, Signature | None] | None = None,
    ) -> None:
        self.pixels = pixels
        self._files = dict(files or {})
        self._has_file = np.zeros(len(image_paths), np.bool_)
        self._has_file[list(self._files)] = True
        self.file_bytes = sum(content.nbytes for content in self._files.values())
        """Bytes of the files, in RAM."""
        self._signatures = dict(signatures or {})
        self.device = pixels.device if pixels is not None else torch.device("cpu")
        self._image_paths = image_paths

    @property
    def num_images(self) -> int:
        """Number of images in memory, as file or as pixels."""
        return int(np.count_nonzero(self.in_memory()))

    @property
    def pixel_bytes(self) -> int:
        """Bytes of the pixels, on `device`."""
        return self.pixels.num_bytes if self.pixels is not None else 0

    @property
    def num_bytes(self) -> int:
        """Bytes of files and pixels."""
        return self.file_bytes + self.pixel_bytes

    def in_memory(self) -> npt.NDArray[np.bool_]:
        """Returns (N,), whether each image is in memory now, as file or as pixels."""
        return self._has_file.copy() if self.pixels is None else self._has_file | self.pixels.is_filled

    def forget_changed(self, signatures: Mapping[int, Signature | None]) -> bool:
        """Drops the images whose files have another signature now, and returns whether there were any."""
        changed = [index for index, now in signatures.items() if self._signatures.get(index, now) != now]
        self.drop_files(changed)
        for index in changed:
            self._signatures[index] = signatures[index]
            if self.pixels is not None:
                self.pixels.forget(index)
        return bool(changed)

    def drop_files(self, indices: Iterable[int]) -> None:
        """Drops the content of these files."""
        for index in indices:
            if self._has_file[index]:
                self.file_bytes -= self._files.pop(index).nbytes
                self._has_file[index] = False

    def clear(self) -> None:
        """Drops all images and keeps none from now on."""
        self.drop_files(list(self._files))
        self.pixels = None

    def encoded(self, index: int) -> Content | None:
        return self._files.get(index)

    def decoded(self, index: int) -> torch.Tensor | None:
        return None if self.pixels is None else self.pixels.get(index)

    def wants(self, index: int) -> bool:
        return self.pixels is not None and self.pixels.wants(index)

    def wants_any(self) -> bool:
        return self.pixels is not None and self.pixels.wants_any()

    def keep(self, index: int, image: torch.Tensor) -> None:
        if self.pixels is None:
            return
        try:
            self.pixels.keep(index, image)
        except ValueError as error:
            # The file was replaced after the audit. That does not end a run without a cache either.
            log.warning("%s: not kept in memory: %s", self._image_paths[index], error)


def keep_images(
    config: DatasetConfig,
    manifest: Manifest,
    *,
    device: torch.device,
    ram_budget: int,
    device_budget: int,
    indices: Sequence[int] | None = None,
) -> ImageCache | None:
    """Returns the images that `config` keeps in memory, preloaded if it says so; None: it keeps none.

    Args:
        config: `preload_images` and `cache_config.{cache_images,image_format,cache_decoded_images}` are read.
        device: device of the images that epoch 0 keeps; cpu for loader=torch, whose workers must see them. Images that are only
            preloaded are in RAM.
        ram_budget, device_budget: bytes. Images are kept in order until the budget is spent; the others are loaded each epoch.
        indices: images of this rank if they are the same in each epoch; None: all.
    """
    cache = config.cache_config
    does_preload = config.preload_images and cache.cache_images
    does_predecode = does_preload and cache.image_format == "decoded"
    if not does_preload and not cache.cache_decoded_images:
        return None
    order = range(len(manifest)) if indices is None else indices
    signatures = dict(zip(order, ask_each(manifest.images.signature, order), strict=True))  # before anything is read
    files = preload_files(manifest, ram_budget, order) if does_preload and not does_predecode else None
    if not does_predecode and not cache.cache_decoded_images:
        return ImageCache(manifest.image_paths, files, None, signatures)
    on_device = device if cache.cache_decoded_images else torch.device("cpu")
    budget = device_budget if on_device.type == "cuda" else ram_budget - _num_bytes(files or {})
    pixels = DecodedImages(manifest.original_sizes, budget, on_device, order)
    if does_predecode:
        preload_pixels(pixels, manifest, order, config.image_loading_config.use_turbojpeg)
    else:
        log.info(
            "Image caching enabled - will keep %d of %d decoded images after first access (%.1f MB, %s)",
            pixels.num_places,
            len(order),
            pixels.capacity / 1e6,
            _name_of(on_device),
        )
    return ImageCache(manifest.image_paths, files, pixels, signatures)


def preload_files(manifest: Manifest, budget: int, indices: Sequence[int]) -> dict[int, Content]:
    """Returns the content of the files of `indices`, by index, in order until `budget` bytes are spent."""
    sizes = ask_each(manifest.images.num_bytes, indices)
    num_places = int(np.searchsorted(np.cumsum(sizes), budget, side="right"))
    files: dict[int, Content] = {}

    def read(index: int) -> None:
        files[index] = np.frombuffer(manifest.images.read(index), np.uint8)

    _for_each(read, indices[:num_places], manifest)
    _log_preload(len(files), len(indices), _num_bytes(files), torch.device("cpu"))
    return files


def preload_pixels(pixels: DecodedImages, manifest: Manifest, indices: Sequence[int], use_turbojpeg: bool) -> None:
    """Decodes the images of `indices` that have an empty place in `pixels`, with libjpeg-turbo or Pillow as loader=torch does.

    DALI's CPU decoder gives the same pixels; decoding on a GPU, or without fancy upsampling, differs by a few levels.
    """

    def decode(index: int) -> None:
        content = manifest.images.read(index)
        stored = manifest.stored_image(index)
        upright = decode_upright(content, stored.orientation, use_turbojpeg, stored.size)
        pixels.keep(index, torch.from_numpy(np.require(upright, requirements="W")))

    _for_each(decode, [index for index in indices if pixels.wants(index)], manifest)
    _log_preload(pixels.num_images, len(indices), pixels.num_bytes, pixels.device)


def _for_each(load: Callable[[int], None], indices: Sequence[int], manifest: Manifest) -> None:
    """Runs `load` for each image in threads, with a progress bar. Failures are logged; the loader will read those files again."""

    def attempt(index: int) -> None:
        try:
            load(index)
        except (OSError, ValueError) as error:
            log.warning("%s: not preloaded: %s", manifest.image_paths[index], error)

    num_threads = max(min(num_cores(), 8), manifest.images.num_threads)
    with ThreadPoolExecutor(num_threads) as pool:
        for _ in followed(pool.map(attempt, indices), "Preloading images", len(indices)):
            pass


def _log_preload(num_loaded: int, num_listed: int, num_bytes: int, device: torch.device) -> None:
    share = 100 * num_loaded / max(num_listed, 1)
    log.info("Preloaded %d/%d images into %s (%.1f%%)", num_loaded, num_listed, _name_of(device), share)
    log.info("Preloaded images take %.1f MB", num_bytes / 1e6)


def _name_of(device: torch.device) -> str:
    return "GPU memory" if device.type == "cuda" else "RAM"


def _num_bytes(files: Mapping[int, Content]) -> int:
    return sum(content.nbytes for content in files.values())


def shared_bytes(count: int) -> Content:
    """Returns (count,) zeros that processes forked later share. They are not in /dev/shm, which is small in containers."""
    return np.frombuffer(mmap.mmap(-1, max(count, 1)), np.uint8)[:count]
