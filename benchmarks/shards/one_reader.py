"""Writes shards, or reads an epoch from them, in a process of its own and with the code that PYTHONPATH names.

    python one_reader.py write FOLDER NUM_IMAGES NUM_WORDS
    python one_reader.py read URL FEW ORDER [CONNECTIONS [BLOCK]]     ORDER: training or validation

FEW is the URL of few shards. What their index costs, the connection and not its words, is subtracted from the cost of the other.

Only the names that exist in older versions too are imported, and settings that are not given are not passed.
"""

import io
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from dali_pipelines.config import PipelineConfig
from dali_pipelines.loader import DaliLoader
from dali_pipelines.source import PlannedBatches
from ocr.datasets.manifest import Manifest
from ocr.datasets.plan import EpochPlan, SamplePlanner
from ocr.datasets.shards.images import ShardImages, load_shards
from ocr.datasets.shards.writer import ShardWriter
from ocr.loaders.shards import FetchedImages, ShardLoader
from ocr.polygons import PolygonBatch

_SIDE = 220
_NUM_DRAWN = 16
_BATCH_SIZE = 8
_SHARD_BYTES = 32 << 20


def main() -> None:
    command, *arguments = sys.argv[1:]
    if command == "write":
        _write(Path(arguments[0]), int(arguments[1]), int(arguments[2]))
    else:
        url, few, order, *settings = arguments
        print(json.dumps(_read(url, few, order, *map(int, settings))))


def _write(folder: Path, num_images: int, num_words: int) -> None:
    """Writes shards of images of noise with rectangles at random as words."""
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(_NUM_DRAWN):
        content = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (_SIDE, _SIDE, 3), np.uint8)).save(content, "JPEG", quality=90)
        drawn.append(content.getvalue())
    loose = folder.with_name(f"{folder.name}_files")
    loose.mkdir(parents=True)
    for number in range(num_images):
        (loose / f"{number:07d}.jpg").write_bytes(drawn[number % _NUM_DRAWN])
    corners = rng.random((num_images * num_words, 1, 2), np.float32) * 150
    corners = corners + np.array([[0, 0], [40, 0], [40, 12], [0, 12]], np.float32)
    counts = np.arange(num_images * num_words + 1, dtype=np.int64)
    manifest = Manifest(
        image_paths=tuple(str(path) for path in sorted(loose.iterdir())),
        filenames=tuple(path.name for path in sorted(loose.iterdir())),
        sample_ids=np.arange(num_images),
        stored_sizes=np.full((num_images, 2), _SIDE, np.int32),
        orientations=np.ones(num_images, np.uint8),
        polygons=PolygonBatch(
            corners.reshape(-1, 2), counts * 4, counts[::num_words], np.zeros(num_images * num_words, np.bool_)
        ),
        num_listed=num_images,
    )
    ShardWriter(manifest, folder, folder.name, _SHARD_BYTES).write_all()


class _Reading:
    """Takes the place of DALI: takes the bytes of each image and decodes nothing."""

    batch_size = _BATCH_SIZE

    def __init__(self, fetched: FetchedImages) -> None:
        self._fetched = fetched

    def has_prepared(self, plan: PlannedBatches, first_step: int) -> bool:
        return True

    def batches(self, plan: PlannedBatches, first_step: int) -> Any:
        for step in range(first_step, len(plan)):
            for index in plan.batch(step).indices.tolist():
                content = self._fetched.encoded(index)
                assert content is not None
                yield len(content)


def _read(url: str, few: str, order: str, connections: int | None = None, block: int | None = None) -> dict[str, Any]:
    storage: dict[str, Any] = {} if connections is None else {"num_connections": connections}
    load_shards(few, **storage)  # imports all packages
    connection = _loaded(few, storage)[1]
    manifest, loaded = _loaded(url, storage)
    loaded = {key: loaded[key] - connection[key] for key in loaded}
    settings: dict[str, Any] = {} if block is None else {"shuffle_block": block}
    planner = SamplePlanner(PipelineConfig(image_size=64), training=order == "training", seed=0, **settings)
    images = cast(ShardImages, manifest.images)
    fetched = FetchedImages(images, None)
    loader = ShardLoader(cast(DaliLoader, _Reading(fetched)), fetched)

    def plan(epoch: int) -> EpochPlan:
        return EpochPlan(manifest, planner, epoch=epoch, batch_size=_BATCH_SIZE)

    plan(0).batch(0)  # compiles
    images.read(0)  # connects
    begin, cpu = time.perf_counter(), time.process_time()
    sizes = [int(cast(Any, size)) for size in loader.batches(plan(0))]
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    fetched.stop()
    assert len(sizes) == len(manifest)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return loaded | {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "images": len(sizes),
        "bytes": sum(sizes),
        "words": manifest.polygons.num_polygons,
        "peak_bytes": peak,
    }


def _loaded(url: str, storage: dict[str, Any]) -> tuple[Manifest, dict[str, float]]:
    """Returns the images of an index, and the seconds and bytes of memory that reading it took."""
    before, start = _resident(), time.perf_counter()
    manifest = load_shards(url, **storage)[0]
    return manifest, {"index_seconds": time.perf_counter() - start, "index_bytes": _resident() - before}


def _resident() -> int:
    """Returns the bytes that this process has in memory and shares with no file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024


if __name__ == "__main__":
    main()
