"""A plain PyTorch data set. `loader=torch` runs it in its workers, and tests compare DALI with it."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from dali_pipelines.config import PipelineConfig
from dali_pipelines.normalize import ImageFinisher
from dali_pipelines.rendering import ImageArray, render
from dali_pipelines.scaled import render_file
from dali_pipelines.source import PlannedBatch, PlannedSample
from dali_pipelines.turbojpeg import Encoded, decode_upright
from ocr.cache_statistics import CacheSizes, CacheStatistics
from ocr.datasets.items import Flags, ItemCache, Polygons
from ocr.datasets.kept_images import ImageCache, keep_images
from ocr.datasets.manifest import Manifest
from ocr.datasets.plan import PlannedText, SamplePlanner
from ocr.datasets.schemas import CacheConfig, DatasetConfig, ImageData
from ocr.datasets.sets import load_split, maps_names
from ocr.errors import InputError
from ocr.machine import free_ram
from ocr.progress import followed
from ocr.targets.config import TargetConfig
from ocr.targets.maps import make_targets
from ocr.targets.offline import OfflineMaps
from ocr.targets.target_maps import TargetMaps

log = logging.getLogger(__name__)

_MAPS = ("prob_map", "prob_mask", "thresh_map", "thresh_mask")
_CACHE_OF_RUNS = ("dtype", "device_budget", "directory", "disk_budget", "verify")
"""Keys of `cache_config` that only runs use."""


class ValidatedOCRDataset(Dataset[Any]):
    """Images and targets of one split, one sample at a time.

    Args:
        config: location and settings of the split.
        transform: planner of the samples, kept as `planner`, or any callable; this argument's name is part of the public contract.
            `SamplePlanner(PipelineConfig(), training=False, seed=0)` letterboxes. With a callable, images are letterboxed to
            PipelineConfig's size, and the callable gets each finished sample and returns what the data set returns.
        targets: settings of the target maps.
        manifest: checked annotations; None reads and checks them now.

    With a planner, the run that uses the data set decides what stays in memory (ocr/memory). With a callable, the data set follows
    `config` itself: images and maps are preloaded now, and finished samples are cached. They are cached before the callable, which
    may therefore be random. Worker processes that are forked share these caches; each counts its own hits and misses.

    Raises:
        InputError: finished tensors or maps are to be cached, but the planner is random.
    """

    def __init__(
        self,
        config: DatasetConfig,
        transform: SamplePlanner | Callable[[dict[str, Any]], Any],
        targets: TargetConfig | None = None,
        manifest: Manifest | None = None,
    ) -> None:
        self.config = config
        self.planner: SamplePlanner
        self._transform: Callable[[dict[str, Any]], Any] | None
        if isinstance(transform, SamplePlanner):
            self.planner, self._transform = transform, None
        else:
            self.planner, self._transform = SamplePlanner(PipelineConfig(), training=False, seed=0), transform
        refuse_caches_of_random_samples(config, self.planner)
        self.targets = targets or TargetConfig()
        self.manifest = (
            manifest
            if manifest is not None
            else load_split(config, max_megapixels=self.planner.config.max_megapixels)[0]
        )
        self.offline_maps: OfflineMaps | None = None
        """Target maps from files, with `config.load_maps`."""
        if config.load_maps:
            self.offline_maps = OfflineMaps(config.maps_dir, maps_names(config, self.manifest), self.targets)
        self.epoch = 0
        self.kept_images: ImageCache | None = None
        """Images in memory, used in place of their files. Set this before worker processes start: they inherit it."""
        self._items: ItemCache | None = None
        if self._transform is not None:
            self._fill_memory()
        log_every_n = config.cache_config.log_statistics_every_n
        if log_every_n is None and (self.kept_images is not None or self._items is not None):
            log_every_n = max(len(self), 1)
        self._statistics = CacheStatistics(log_every_n, self._cache_sizes)

    def __len__(self) -> int:
        return len(self.manifest)

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch that keys the random numbers."""
        self.epoch = epoch

    def bytes_of_kept_maps(self, num_images: int, num_cached: int) -> int:
        """Returns the bytes in RAM of the offline maps that the configuration keeps.

        Args:
            num_images: images of this process.
            num_cached: images among them whose finished samples are kept. Their maps are read once, so that only preloading keeps
                them.
        """
        config = self.config
        if self.offline_maps is None or not (config.preload_maps or config.cache_config.cache_maps):
            return 0
        num_maps = num_images if config.preload_maps else max(num_images - num_cached, 0)
        return num_maps * self.offline_maps.bytes_of_one(self.planner.input_size)

    def _fill_memory(self) -> None:
        """Preloads images and maps, and prepares the cache of finished samples, as the configuration says."""
        cache = self.config.cache_config
        budget = int(free_ram() // 2 if cache.ram_budget is None else cache.ram_budget)
        cpu = torch.device("cpu")
        kept = keep_images(self.config, self.manifest, device=cpu, ram_budget=budget, device_budget=0)
        self.kept_images = kept
        if kept is not None:
            budget -= kept.file_bytes + (0 if kept.pixels is None else kept.pixels.capacity)
        if self.offline_maps is not None:
            num_cached = len(self) if cache.cache_transformed_tensors else 0
            self.offline_maps.budget = min(self.bytes_of_kept_maps(len(self), num_cached), max(budget, 0))
            budget -= self.offline_maps.budget
            if self.config.preload_maps:
                self.offline_maps.preload()
        if cache.cache_transformed_tensors:
            side, side_of_map = self.planner.input_size, self.planner.input_size // self.targets.map_stride
            shapes = {"image": (3, side, side), **dict.fromkeys(_MAPS, (side_of_map, side_of_map))}
            self._items = ItemCache(self.manifest.images, shapes, len(self), budget, self._count)
            if self.config.prenormalize_images:
                for index in followed(range(len(self)), "Filling the tensor cache", len(self)):
                    self._items.fill(index, self._tensors)
        idle = [key for key in _CACHE_OF_RUNS if getattr(cache, key) != CacheConfig.model_fields[key].default]
        if idle:
            keys = ", ".join(f"cache_config.{key}" for key in idle)
            log.warning(
                "%s: only the loaders of this project use these settings, ignored here: %s", self.config.places, keys
            )

    def __getitem__(self, index: int) -> Any:
        """Returns one sample, or what the callable `transform` makes of it."""
        if self._transform is None:
            return self._sample(index)
        if self._items is not None:
            return self._transform(self._sample(index, self._items.get(index, self._tensors)))
        self._count(self._is_kept(index))
        return self._transform(self._sample(index))

    def _count(self, is_hit: bool) -> None:
        """Counts an access. As many accesses as there are samples are an epoch."""
        counted = self._statistics
        if counted.epoch_hits + counted.epoch_misses >= len(self):
            counted.start_epoch()
        counted.count(hits=int(is_hit), misses=int(not is_hit))

    def _cache_sizes(self) -> CacheSizes:
        kept, maps, items = self.kept_images, self.offline_maps, self._items
        return CacheSizes(
            images=0 if kept is None else kept.num_images,
            tensors=0 if items is None else items.num_kept,
            maps=0 if maps is None else maps.num_kept,
        )

    def _is_kept(self, index: int) -> bool:
        kept = self.kept_images
        return kept is not None and (kept.encoded(index) is not None or kept.decoded(index) is not None)

    def _sample(self, index: int, tensors: Mapping[str, torch.Tensor] | None = None) -> dict[str, Any]:
        """Returns one sample. Its keys are part of the public contract; prob_map, as in the .npz files, is the shrink map.

        Args:
            tensors: its image and maps, from a cache; None: they are made.

        Returns:
            image: (3, S, S) float32, normalised. polygons: list of (n, 2) float32, input frame. ignore: (P,) bool, don't-care.
            prob_map, prob_mask, thresh_map, thresh_mask: (S / map_stride, S / map_stride) float32.
            inverse_matrix: (3, 3) float64, original from input. shape: (S, S). raw_size: (W, H) of the file.
            orientation: EXIF 1 to 8. filename: as in the annotations.
        """
        manifest = self.manifest
        samples = self.with_text(self.planned([index]))
        polygons = samples.polygons_input
        tensors = self._tensors(index, samples) if tensors is None else tensors
        stored = manifest.stored_image(index)
        return {
            "image": tensors["image"],
            "polygons": Polygons(polygons.polygons_of(0)),
            "ignore": polygons.ignore_of(0).view(Flags),
            **{name: tensors[name] for name in _MAPS},
            "inverse_matrix": np.linalg.inv(samples.input_from_original[0]),
            "shape": (self.planner.input_size, self.planner.input_size),
            "raw_size": stored.size[::-1],
            "orientation": stored.orientation,
            "filename": manifest.filenames[index],
        }

    def _tensors(self, index: int, samples: PlannedText | None = None) -> dict[str, torch.Tensor]:
        """Returns image and maps of a sample, as `_sample` describes them.

        Args:
            samples: its plan; None: it is made.
        """
        samples = self.with_text(self.planned([index])) if samples is None else samples
        maps = self.make_targets(samples)
        return {
            "image": self.finisher(torch.float32).finish([self.render(samples[0])])[0],
            "prob_map": maps.shrink_map[0],
            "prob_mask": maps.shrink_mask[0],
            "thresh_map": maps.thresh_map[0],
            "thresh_mask": maps.thresh_mask[0],
        }

    def finisher(self, dtype: torch.dtype) -> ImageFinisher:
        """Returns the part that pads, normalises and batches the images of `render`."""
        config = self.planner.config
        return ImageFinisher(self.planner.input_size, config.mean, config.std, dtype, layout=config.output_layout)

    def make_targets(self, samples: PlannedBatch, device: torch.device | str = "cpu") -> TargetMaps:
        """Returns the target maps of a batch on the device, from `offline_maps` where it has them."""
        text, size = self.with_text(samples, device), (self.planner.input_size, self.planner.input_size)
        if self.offline_maps is None:
            return make_targets(text.polygons_input, size, self.targets, device, text.outlines)
        indices = samples.indices.tolist()
        return self.offline_maps.targets(indices, text.polygons_input, size, device, text.outlines)

    def with_text(self, samples: PlannedBatch, device: torch.device | str = "cpu") -> PlannedText:
        """Returns the samples with their polygons, measured for `make_targets` on the device.

        Samples that were planned with them are returned as they are.
        """
        # Maps from files are seldom drawn, and then only for the images whose file is missing.
        drawn_on = "cpu" if self.offline_maps is not None else device
        return self.planner.with_text(self.manifest, samples, self.targets, drawn_on)

    def planned(self, indices: Sequence[int]) -> PlannedBatch:
        """Returns the plan of these images in the current epoch."""
        return self.planner.plan_batch(self.manifest, indices, self.epoch)

    def expect(self, indices: Sequence[int]) -> None:
        """Announces the images that will be loaded next, so that their source can read ahead the ones not kept in memory."""
        self.manifest.images.expect([index for index in indices if not self._is_kept(index)])

    def load_image(self, index: int) -> ImageData:
        """Returns the decoded, upright image. Do not modify its pixels: they may be the copy kept in memory."""
        kept = None if self.kept_images is None else self.kept_images.decoded(index)
        pixels = self._decode(index) if kept is None else kept.cpu().numpy()
        stored = self.manifest.stored_image(index)
        height, width = stored.size
        return ImageData(image_array=pixels, raw_width=width, raw_height=height, orientation=stored.orientation)

    def _decode(self, index: int) -> ImageArray:
        stored, use_turbojpeg = self.manifest.stored_image(index), self.config.image_loading_config.use_turbojpeg
        with self._naming_file(index):
            return decode_upright(self._encoded(index), stored.orientation, use_turbojpeg, stored.size)

    def _encoded(self, index: int) -> Encoded:
        content = None if self.kept_images is None else self.kept_images.encoded(index)
        return self.manifest.images.read(index) if content is None else content

    @contextmanager
    def _naming_file(self, index: int) -> Iterator[None]:
        """Adds the file's path to an error about the file."""
        try:
            yield
        except (OSError, ValueError) as error:
            path = self.manifest.image_paths[index]
            raise type(error)(f"{path}: cannot be read or decoded: {error}") from error

    def render(self, sample: PlannedSample) -> ImageArray:
        """Returns the rendered sample, (H, W, 3) RGB uint8, before padding and normalisation.

        Keeps the decoded image if `kept_images` wants it. With `scaled_decode` there are only files, no kept pixels.
        """
        index, config, training = sample.index, self.planner.config, self.planner.training
        if config.scaled_decode and self.config.image_loading_config.use_turbojpeg:
            with self._naming_file(index):
                return render_file(
                    self._encoded(index), self.manifest.stored_image(index), sample, config, training=training
                )
        original = self.load_image(index).image_array
        kept = self.kept_images
        if kept is not None and kept.wants(index):
            kept.keep(index, torch.from_numpy(np.require(original, requirements="W")))
        planned_with = self.manifest.stored_image(index).upright_size
        return render(original, sample, config, training=training, upright_size=planned_with)


def refuse_caches_of_random_samples(split: DatasetConfig, planner: SamplePlanner) -> None:
    """Raises InputError if finished tensors or maps of a random pipeline are to be cached."""
    if not planner.is_random:
        return
    caches = {
        "cache_config.cache_transformed_tensors": split.cache_config.cache_transformed_tensors,
        "load_maps": split.load_maps,
        "preload_maps": split.preload_maps,
    }
    wrong = [f"{key}=true" for key, is_set in caches.items() if is_set]
    if wrong:
        raise InputError(
            f"{split.places}: {', '.join(wrong)}, but this pipeline crops, turns and colours each image at random, so a result "
            "of one epoch is wrong in the next; set it to false (cache_config.cache_decoded_images=true caches training images "
            "before their random steps)"
        )
