"""Real training images with words of other training images pasted on their free places.

A word keeps its angle, and its size relative to the longest side of the image. Its strokes are added to the background of the
destination: what is pasted is the difference between the word's pixels and its own background. Points are those of the stored file,
as in the annotation files: EXIF rotation is neither applied nor kept.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field

from dali_pipelines.config import Section

Pixels = npt.NDArray[np.uint8]
Points = npt.NDArray[np.float64]

_FEATHER = 3
"""Pixels around a pasted word over which its pixels fade into the destination's."""
_MARGIN = 8
"""Pixels around a word that are cut with it: more than the feather, even at the smallest scale."""
_MAX_SCALE = 2.0
"""Largest enlargement of a word; the smallest is its inverse."""
_MIN_HEIGHT = 7.0
"""Smallest text height in pixels, before and after scaling: smaller words are hardly legible."""
_MAX_SHIFT = 60.0
"""Largest difference of the two backgrounds in a channel: light text on dark ground would vanish on white paper."""
_MAX_UNEVENNESS = 25.0
"""Largest difference from its background in a channel, for four fifths of the pixels around a word: others would show an edge."""
_MIN_BACKGROUND = 0.3
"""Smallest share of a word's pixels that are about as bright as the background around it: not a word on a plate of its own."""
_MIN_CONTRAST = 12.0
"""Smallest standard deviation of the grey values of a word."""
_MIN_KEPT_CONTRAST = 0.8
"""Smallest contrast of a pasted word by that of its source: black text on nearly black ground has less."""
_NUM_PLACES = 400
"""Random places that are tried for a word."""
_NUM_WORDS_TRIED = 8
"""Words that are tried, one after the other, for each word that is pasted."""
_KEPT_PER_IMAGE = 12
"""Words that are cut from an image, to bound the memory."""


class PastedGroup(Section):
    """Data sets of one kind: words are pasted from any of their images into any other."""

    sets: tuple[str, ...]
    """Names of the folders of the data sets."""
    num_images: int = Field(ge=0)
    """Number of images written; at most that of the training images in the sets."""
    min_words: int = Field(ge=0)
    """Smallest number of words pasted into an image, if there is room."""
    max_words: int = Field(ge=1)
    """Largest number of words pasted into an image."""


class PastedConfig(Section):
    """The set of images with pasted words. Equal values give equal files."""

    groups: tuple[PastedGroup, ...] = (
        PastedGroup(sets=("sroie_lines", "sroie_more"), num_images=160, min_words=8, max_words=20),
        PastedGroup(sets=("icdar15_words", "icdar15_more"), num_images=80, min_words=2, max_words=6),
    )
    """The kinds of data sets."""
    short_share: float = Field(default=0.5, ge=0, le=1)
    """Share of short words among those pasted."""
    short_aspect: float = Field(default=2.5, ge=1)
    """Width of a short word by its height, at most."""
    seed: int = Field(default=7, ge=0, lt=2**63)
    """Seed of all choices."""
    quality: int = Field(default=90, ge=1, le=100)
    """JPEG quality of the written files."""


@dataclass(frozen=True)
class Word:
    """A word cut from an image."""

    source: str
    """The image that it comes from."""
    transcription: str
    pixels: Pixels
    """(H, W, 3), BGR: the bounding box of the word and some pixels around it."""
    polygon: Points
    """(N, 2), in pixels of the crop."""
    longest_side: int
    """Longest side of the image that it comes from, in pixels."""

    @property
    def sides(self) -> tuple[float, float]:
        """Height and width of the text, in pixels, whatever its angle."""
        _, (a, b), _ = cv2.minAreaRect(self.polygon.astype(np.float32))
        return min(a, b), max(a, b)

    def is_short(self, aspect: float) -> bool:
        """Returns whether the text is at most `aspect` times as long as it is high."""
        height, width = self.sides
        return width <= aspect * height

    def scaled(self, factor: float) -> "Word":
        """Returns the word enlarged by a factor; sides are rounded to whole pixels."""
        height, width = (max(1, round(side * factor)) for side in self.pixels.shape[:2])
        interpolation = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
        pixels = cv2.resize(self.pixels, (width, height), interpolation=interpolation)
        factors = width / self.pixels.shape[1], height / self.pixels.shape[0]
        longest_side = round(self.longest_side * factor)
        return Word(self.source, self.transcription, _as_pixels(pixels), self.polygon * factors, longest_side)


@dataclass(frozen=True)
class PlacedWord:
    """A word on its place in an image."""

    word: Word
    """The word at the scale of the image."""
    polygon: Points
    """(N, 2), in pixels of the image."""


def write_pasted(config: PastedConfig, data: Path, output: Path) -> None:
    """Writes images/train/*.jpg and jsons/train.json of a data set with pasted words, in Upstage JSON.

    Args:
        config: values of the data set.
        data: folder of the real data sets.
        output: folder to write, replaced if it exists.
    """
    shutil.rmtree(output, ignore_errors=True)
    (output / "images/train").mkdir(parents=True)
    (output / "jsons").mkdir()
    images: dict[str, Any] = {}
    for number, group in enumerate(config.groups):
        rng = np.random.Generator(np.random.Philox(key=np.array([config.seed, number], np.uint64)))
        images |= _write_group(rng, config, group, data, output / "images/train")
    (output / "jsons/train.json").write_text(json.dumps({"images": images}))


def cut_words(source: str, image: Pixels, entry: dict[str, Any]) -> list[Word]:
    """Returns the legible words of an image that no other annotated word touches.

    Args:
        source: name of the image.
        image: (H, W, 3), BGR.
        entry: the image's entry in the JSON file.
    """
    annotated = list(entry["words"].values())
    boxes = [_box_of(word["points"], image.shape) for word in annotated]
    num_words = np.zeros(image.shape[:2], np.uint8)  # annotated words over each pixel
    masks = []
    for word, (left, top, right, bottom) in zip(annotated, boxes, strict=True):
        mask = _filled(np.array(word["points"]) - (left, top), (bottom - top, right - left))
        num_words[top:bottom, left:right] += mask
        masks.append(mask)
    found = []
    for word, (left, top, right, bottom), mask in zip(annotated, boxes, masks, strict=True):
        near = cv2.dilate(mask, np.ones((2 * _FEATHER + 1, 2 * _FEATHER + 1), np.uint8))
        if word.get("illegibility") or (near & (num_words[top:bottom, left:right] > mask)).any():
            continue
        polygon = np.array(word["points"], np.float64) - (left, top)
        pixels = image[top:bottom, left:right].copy()
        cut = Word(source, word.get("transcription", ""), pixels, polygon, max(image.shape[:2]))
        if cut.sides[0] >= _MIN_HEIGHT and _is_on_plain_ground(cut):
            found.append(cut)
    return found


def paste_words(
    rng: np.random.Generator, image: Pixels, taken: Sequence[npt.ArrayLike], kinds: Sequence[Sequence[Word]]
) -> tuple[Pixels, list[PlacedWord]]:
    """Pastes words on free places of an image: no annotated text, no edges, and half a text height to both.

    Args:
        rng: makes all choices.
        image: (H, W, 3), BGR.
        taken: polygons of all annotated words, in pixels of the image.
        kinds: the words to choose from, one sequence for each word that is to be pasted.

    Returns:
        The image, and the words pasted: fewer than `kinds`, if there is no room.
    """
    image = image.copy()
    blocked = cv2.Canny(cv2.GaussianBlur(image, (0, 0), 1.5), 30, 60) > 0
    for polygon in taken:
        blocked |= _filled(polygon, image.shape[:2]) > 0
    placed = []
    for words in kinds:
        for index in rng.integers(len(words), size=_NUM_WORDS_TRIED if words else 0):
            found = _paste_(rng, image, blocked, words[index])
            if found:
                placed.append(found)
                break
    return image, placed


def _paste_(rng: np.random.Generator, image: Pixels, blocked: npt.NDArray[np.bool_], word: Word) -> PlacedWord | None:
    """Changes image and blocked in place: pastes a word. Returns it, or None if it does not fit and nothing changed."""
    factor = max(image.shape[:2]) / word.longest_side
    if not 1 / _MAX_SCALE <= factor <= _MAX_SCALE:
        return None
    word = word.scaled(factor)
    text_height = word.sides[0]
    if text_height < _MIN_HEIGHT:
        return None
    margin = max(0, round(text_height / 2) - _FEATHER)  # around the crop, which holds at least the feather
    height, width = word.pixels.shape[:2]
    corner = _free_place(rng, blocked, (height + 2 * margin, width + 2 * margin))
    if corner is None:
        return None
    left, top = corner[0] + margin, corner[1] + margin
    place = image[top : top + height, left : left + width]
    inside, distance = _distances(word)
    background = _background(word, distance)
    if np.abs(np.median(background - place, axis=(0, 1))).max() > _MAX_SHIFT:
        return None
    alpha = np.clip(1 - distance / (_FEATHER + 1), 0, 1)[..., None]
    pasted = _as_pixels(np.clip(np.rint(place + alpha * (word.pixels - background)), 0, 255))
    if _contrast(pasted, inside) < _MIN_KEPT_CONTRAST * _contrast(word.pixels, inside):
        return None
    place[:] = pasted
    blocked[top : top + height, left : left + width] |= inside
    return PlacedWord(word, np.add(word.polygon, (left, top)))


def _distances(word: Word) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
    """Returns the mask of a word's pixels, and the distance of the others to them in pixels, both (H, W) of the crop."""
    filled = _filled(word.polygon, word.pixels.shape[:2])
    return filled > 0, np.asarray(cv2.distanceTransform(1 - filled, cv2.DIST_L2, 5), np.float32)


def _background(word: Word, distance: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Returns the background of a word, (H, W, 3): the plane through the colours around it, so that shades are not pasted."""
    is_around = (distance > 0) & (distance <= _FEATHER)
    around = word.pixels[is_around].astype(np.float64)
    deviation = np.abs(around - np.median(around, axis=0)).max(axis=1)
    is_usual = deviation <= np.quantile(deviation, 0.8)
    rows, columns = np.indices(distance.shape)
    terms = np.stack([rows, columns, np.ones_like(rows)], axis=-1).astype(np.float64)
    plane, *_ = np.linalg.lstsq(terms[is_around][is_usual], around[is_usual], rcond=None)
    return np.asarray(terms @ plane, np.float64)


def _is_on_plain_ground(word: Word) -> bool:
    """Returns whether a word stands out from an even background that is the same within and around its polygon."""
    inside, distance = _distances(word)
    if min(word.polygon.min(), (distance.shape[::-1] - word.polygon).min()) < _FEATHER:
        return False  # cut off by the edge of the image
    difference = np.abs(word.pixels - _background(word, distance)).max(axis=-1)
    around = difference[(distance > 0) & (distance <= _FEATHER)]
    return bool(
        np.quantile(around, 0.8) <= _MAX_UNEVENNESS
        and (difference[inside] <= _MAX_UNEVENNESS).mean() >= _MIN_BACKGROUND
        and _contrast(word.pixels, inside) >= _MIN_CONTRAST
    )


def _contrast(pixels: Pixels, inside: npt.NDArray[np.bool_]) -> float:
    """Returns the standard deviation of the grey values in a mask."""
    return float(cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)[inside].std())


def _free_place(
    rng: np.random.Generator, blocked: npt.NDArray[np.bool_], size: tuple[int, int]
) -> tuple[int, int] | None:
    """Returns left and top of a random window of this size (H, W) without a blocked pixel; None if no try finds one."""
    height, width = size
    if height > blocked.shape[0] or width > blocked.shape[1]:
        return None
    sums = cv2.integral(blocked.astype(np.uint8))
    top = rng.integers(blocked.shape[0] - height + 1, size=_NUM_PLACES)
    left = rng.integers(blocked.shape[1] - width + 1, size=_NUM_PLACES)
    bottom, right = top + height, left + width
    num_blocked = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    free = np.flatnonzero(num_blocked == 0)
    return (int(left[free[0]]), int(top[free[0]])) if len(free) else None


def _write_group(
    rng: np.random.Generator, config: PastedConfig, group: PastedGroup, data: Path, folder: Path
) -> dict[str, Any]:
    """Writes the images of a group. Returns their entries of the JSON file."""
    entries = dict(_entries(group, data))
    words = [word for path, entry in entries.items() for word in _some_words(rng, config, path, entry)]
    is_short = [word.is_short(config.short_aspect) for word in words]
    images = {}
    for path in rng.permutation(np.array(list(entries), object))[: group.num_images]:
        by_kind: tuple[list[Word], list[Word]] = [], []
        for word, short in zip(words, is_short, strict=True):
            if word.source != str(path):
                by_kind[short].append(word)
        num_words = int(rng.integers(group.min_words, group.max_words + 1))
        kinds = [by_kind[int(rng.random() < config.short_share)] for _ in range(num_words)]
        entry = entries[path]
        taken = [word["points"] for word in entry["words"].values()]
        image, placed = paste_words(rng, _read(path), taken, kinds)
        name = f"{path.parents[2].name}_{path.stem}.jpg"
        cv2.imwrite(str(folder / name), image, [cv2.IMWRITE_JPEG_QUALITY, config.quality])
        images[name] = entry | {"words": entry["words"] | dict(_annotated(placed))}
    return images


def _some_words(rng: np.random.Generator, config: PastedConfig, path: Path, entry: dict[str, Any]) -> list[Word]:
    """Returns random words of an image, at most _KEPT_PER_IMAGE: half of them short, if there are as many."""
    found = cut_words(str(path), _read(path), entry)
    short = [word.is_short(config.short_aspect) for word in found]
    order = sorted(rng.permutation(len(found)).tolist(), key=lambda index: not short[index])
    half = _KEPT_PER_IMAGE // 2
    return [found[index] for index in (*order[:half], *order[half:][-half:])]


def _entries(group: PastedGroup, data: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yields path and entry of the training images of a group, ordered by set and name."""
    for name in group.sets:
        images = json.loads((data / name / "jsons/train.json").read_bytes())["images"]
        for file_name in sorted(images):
            yield data / name / "images/train" / file_name, images[file_name]


def _annotated(placed: Sequence[PlacedWord]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields key and entry of the JSON file for each pasted word."""
    for number, one in enumerate(placed, start=1):
        yield (
            f"pasted_{number:04d}",
            {"points": one.polygon.round(2).tolist(), "transcription": one.word.transcription},
        )


def _read(path: Path) -> Pixels:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise FileNotFoundError(f"{path}: OpenCV cannot read this image")
    return _as_pixels(image)


def _as_pixels(array: Any) -> Pixels:
    return np.asarray(array, np.uint8)


def _filled(points: npt.ArrayLike, size: tuple[int, ...]) -> Pixels:
    """Returns an (H, W) mask that is 1 inside a polygon and on its edge."""
    mask = np.zeros(size, np.uint8)
    cv2.fillPoly(mask, [np.rint(np.asarray(points, np.float64) - 0.5).astype(np.int32)], [1])
    return mask


def _box_of(points: npt.ArrayLike, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Returns left, top, right and bottom of the polygon's box with a margin, within the image."""
    polygon = np.asarray(points)
    left, top = np.maximum(np.floor(polygon.min(axis=0)) - _MARGIN, 0).astype(int).tolist()
    right, bottom = np.minimum(np.ceil(polygon.max(axis=0)) + _MARGIN, (shape[1], shape[0])).astype(int).tolist()
    return left, top, max(right, left + 1), max(bottom, top + 1)
