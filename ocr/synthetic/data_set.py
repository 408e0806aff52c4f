"""Draws the data set into a folder in the Upstage layout: images/{train,val}/*.jpg and jsons/{train,val}.json.

Points in the JSON files are in pixels of the stored file, in reading order: they start at the top left of the text and follow its
upper edge first. That is clockwise in the upright picture and counter-clockwise in a mirrored file.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dali_pipelines import geometry
from dali_pipelines.config import num_cores
from ocr.datasets.orientation import stored_from_original, upright_size
from ocr.environment import digest_of_sources
from ocr.progress import followed
from ocr.synthetic import jpeg
from ocr.synthetic.config import SyntheticConfig
from ocr.synthetic.scene import draw_photo

SPLITS = ("train", "val")
_IMAGES_PER_PROCESS = 8
"""Smallest number of images that makes another process worthwhile."""
_SIGNATURE = "synthetic.json"
"""File in the root: the config and code that drew the set."""
_TEMPORARY = ".drawing_"


def draw_data_set(config: SyntheticConfig, directory: Path, num_workers: int = 0) -> Path:
    """Draws the data set, unless it exists already.

    Args:
        config: values of the data set; with the same library versions, equal values give byte-identical files.
        directory: root of the data set. A set drawn there from other values, or by other code, is replaced.
        num_workers: drawing processes; 0: one per CPU.

    Returns:
        The root of the data set. Its JSON files appear last, when all images are in place.

    Raises:
        FileExistsError: the folder holds something that was not drawn here.
    """
    root = Path(directory)
    code = digest_of_sources([Path(__file__).parent])
    signature = json.dumps({"code_sha256": code, "config": config.model_dump()}, indent=2)
    if _is_complete(root, config, signature):
        return root
    root.mkdir(parents=True, exist_ok=True)
    if not (root / _SIGNATURE).exists() and any(not path.name.startswith(_TEMPORARY) for path in root.iterdir()):
        raise FileExistsError(
            f"{root}: is not empty and holds no {_SIGNATURE}, so it is not a drawn data set; "
            "add data=upstage (or another format) to train on the data in it, or choose another folder to draw into"
        )
    with tempfile.TemporaryDirectory(prefix=_TEMPORARY, dir=root) as temporary:
        drawn = Path(temporary)
        _draw_all(config, drawn, num_workers or num_cores())
        (drawn / _SIGNATURE).write_text(signature)
        if not _is_complete(root, config, signature):  # another process may have finished first
            _move(drawn, root)
    return root


def draw_file(config: SyntheticConfig, root: Path, split: str, index: int) -> dict[str, Any]:
    """Writes one image below `root` and returns its entry of the split's JSON file."""
    key = np.array([config.seed, (SPLITS.index(split) << 32) + index], np.uint64)
    rng = np.random.Generator(np.random.Philox(key=key))
    encoding = jpeg.choose_encoding(rng, config)
    photo = draw_photo(rng, config)
    (root / "images" / split / file_name(split, index)).write_bytes(jpeg.encode(photo.pixels, encoding))
    size_original = (photo.pixels.shape[0], photo.pixels.shape[1])
    stored_size = upright_size(encoding.orientation, size_original)  # the same swap of sides in both directions
    matrix = stored_from_original(encoding.orientation, stored_size)
    words: dict[str, Any] = {}
    for number, word in enumerate(photo.words, start=1):
        points = geometry.transform_points(matrix, word.polygon)
        words[f"{number:04d}"] = {"points": points.round(2).tolist(), "transcription": word.transcription}
        if not word.is_legible:
            words[f"{number:04d}"]["illegibility"] = True
    return {"img_w": stored_size[1], "img_h": stored_size[0], "words": words}


def file_name(split: str, index: int) -> str:
    """Returns the name of an image file."""
    return f"{split}_{index:05d}.jpg"


def jobs(config: SyntheticConfig) -> list[tuple[str, int]]:
    """Returns (split, index) of all images."""
    return [(split, index) for split in SPLITS for index in range(_num_images(config, split))]


def _num_images(config: SyntheticConfig, split: str) -> int:
    return config.num_train if split == "train" else config.num_val


def _is_complete(root: Path, config: SyntheticConfig, signature: str) -> bool:
    """Returns whether the folder holds the set of this signature, with all its images."""
    return (
        (root / _SIGNATURE).is_file()
        and (root / _SIGNATURE).read_text() == signature
        and all(
            (root / "jsons" / f"{split}.json").is_file()
            and len(list((root / "images" / split).glob("*.jpg"))) == _num_images(config, split)
            for split in SPLITS
        )
    )


def _draw_all(config: SyntheticConfig, root: Path, num_workers: int) -> None:
    """Writes the whole set into an empty folder."""
    for split in SPLITS:
        (root / "images" / split).mkdir(parents=True)
    todo = jobs(config)
    num_workers = min(num_workers, -(-len(todo) // _IMAGES_PER_PROCESS))
    if num_workers == 1:
        entries: Iterator[dict[str, Any]] = (draw_file(config, root, split, index) for split, index in todo)
    else:
        entries = draw_in_processes(config, root, len(todo), num_workers)
    images: dict[str, dict[str, Any]] = {split: {} for split in SPLITS}
    progress = followed(entries, "Drawing synthetic images", len(todo))
    for (split, index), entry in zip(todo, progress, strict=True):
        images[split][file_name(split, index)] = entry
    (root / "jsons").mkdir()
    for split in SPLITS:
        (root / "jsons" / f"{split}.json").write_text(json.dumps({"images": images[split]}))


def draw_in_processes(config: SyntheticConfig, root: Path, num_jobs: int, num_workers: int) -> Iterator[dict[str, Any]]:
    """Yields the JSON entry of each image, in the order of `jobs`. Worker w draws jobs w, w + num_workers, ...

    This does not use multiprocessing: a spawned process imports the main script again (9 s of CPU if that imports PyTorch,
    Lightning and DALI; drawing 64 images takes 5 s), and a forked one is not safe beside CUDA or threads.

    Raises:
        RuntimeError: a worker process ended early.
    """
    workers = [_start_worker(config, root, first, num_workers) for first in range(num_workers)]
    try:
        for job in range(num_jobs):
            output = workers[job % num_workers].stdout
            line = output.readline() if output else ""
            if not line:
                code = workers[job % num_workers].wait()
                raise RuntimeError(f"{root}: a drawing process ended with exit code {code}; its error message is above")
            yield json.loads(line)
    finally:
        for worker in workers:
            with worker:  # closes its pipes and waits
                worker.kill()


def _start_worker(config: SyntheticConfig, root: Path, first: int, step: int) -> subprocess.Popen[str]:
    arguments = [config.model_dump_json(), str(root), str(first), str(step)]
    command = [sys.executable, "-m", "ocr.synthetic.worker", *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)


def _move(drawn: Path, root: Path) -> None:
    """Moves a finished set to its place. If killed at any point, it leaves a folder that is marked as drawn and incomplete."""
    for name in ("jsons", "images"):
        shutil.rmtree(root / name, ignore_errors=True)
    for name in (_SIGNATURE, "images", "jsons"):
        (drawn / name).replace(root / name)
