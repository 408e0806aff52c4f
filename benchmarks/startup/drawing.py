"""Draws a data set of any size: few small pictures under many names, and annotations of 25 words an image."""

import io
import json
import os
from pathlib import Path

import numpy as np
from PIL import Image

NUM_WORDS = 25
_WIDTH, _HEIGHT = 240, 320
_NUM_PICTURES = 64
"""A file may have 65,000 names on ext4, so that a million images need 16 files at least."""


def draw(folder: Path, num_images: int, seed: int = 0) -> None:
    """Writes images/train and jsons/train.json below a folder, unless they are there. All names of a picture are hard links."""
    annotations, images = folder / "jsons" / "train.json", folder / "images" / "train"
    if annotations.is_file():
        return
    for parent in (annotations.parent, images, folder / "pictures"):
        parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    words = []
    for number in range(_NUM_PICTURES):
        content, entry = _picture(random)
        (folder / "pictures" / f"{number}.jpg").write_bytes(content)
        words.append(json.dumps(entry))
    temporary = annotations.with_suffix(".part")
    with temporary.open("w") as file:
        file.write('{"images": {')
        for index in range(num_images):
            name = f"img_{index:07d}.jpg"
            os.link(folder / "pictures" / f"{index % _NUM_PICTURES}.jpg", images / name)
            file.write(f'{", " if index else ""}"{name}": {words[index % _NUM_PICTURES]}')
        file.write("}}")
    temporary.replace(annotations)


def _picture(random: np.random.Generator) -> tuple[bytes, dict[str, object]]:
    """Returns a JPEG of about 4 KB, and its annotation."""
    levels = np.full((_HEIGHT, _WIDTH), 245, np.uint8)
    words = {}
    for number in range(NUM_WORDS):
        row, column = divmod(number, 5)
        left, top = 8 + column * 46 + random.uniform(0, 4), 10 + row * 62 + random.uniform(0, 8)
        right, bottom = left + random.uniform(20, 38), top + random.uniform(14, 24)
        levels[int(top) : int(bottom), int(left) : int(right)] = random.integers(20, 120)
        corners = [[left, top], [right, top + 1], [right, bottom], [left, bottom - 1]]
        words[f"{number + 1:04d}"] = {
            "transcription": "total",
            "points": [[round(x, 1), round(y, 1)] for x, y in corners],
            "orientation": "Horizontal",
            "illegibility": bool(random.random() < 0.05),
        }
    file = io.BytesIO()
    Image.fromarray(levels).convert("RGB").save(file, "JPEG", quality=60)
    return file.getvalue(), {"img_w": _WIDTH, "img_h": _HEIGHT, "words": words}
