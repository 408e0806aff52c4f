"""The fast pass over many images never misses what the checks of one image find."""

import numpy as np
import pytest

from ocr.datasets.annotation_checks import check_annotation, distinct_rings, doubtful_images
from ocr.datasets.formats.annotated import AnnotatedImage, AnnotatedWord, chunks_of

SIZE = (90, 120)


def random_polygon(random: np.random.Generator) -> np.ndarray:
    """A polygon near the image: sound, crossing, flat, with repeated points, outside or in parts of the size."""
    count = int(random.integers(0, 8))
    kind = random.integers(0, 7)
    points = random.uniform(-20, 140, (count, 2))
    if kind == 1:  # convex and inside
        angles = np.sort(random.uniform(0, 2 * np.pi, max(count, 3)))
        points = np.stack([60 + 50 * np.cos(angles), 45 + 40 * np.sin(angles)], axis=1)
    elif kind == 2:
        points = np.round(points / 40) * 40  # many collinear and equal points
    elif kind == 3:
        points = np.repeat(points, random.integers(1, 3, count), axis=0)
    elif kind == 4:
        points = random.uniform(-0.02, 1.05, (count, 2))
    elif kind == 5:
        left, top = random.uniform(-3, 100, 2)
        points = np.array([[left, top], [left + 30, top], [left + 30, top + 20], [left, top + 20]])
    elif kind == 6 and count:
        points[random.integers(count)] = random.choice([np.nan, np.inf, 1e7, 0.0])
    return points


@pytest.mark.parametrize("frame", ["stored", "upright"])
def test_images_without_doubt_have_no_finding(frame: str) -> None:
    random = np.random.default_rng(3)
    images = []
    for number in range(1500):
        polygons = [random_polygon(random) for _ in range(random.integers(0, 3))]
        if polygons and random.random() < 0.1:
            polygons.append(np.roll(polygons[0], 1, axis=0)[::-1])
        words = tuple(AnnotatedWord(str(key), points) for key, points in enumerate(polygons))
        declared = (90, 120) if random.random() < 0.8 else (120, None)
        images.append(AnnotatedImage(f"{number}.jpg", "a.json", words, declared))
    (chunk,) = chunks_of(images)
    orientations = np.array(random.integers(1, 9, len(images)), np.uint8)
    sizes = np.tile(np.array(SIZE, np.int64), (len(images), 1))
    doubtful = doubtful_images(chunk, distinct_rings(chunk), sizes, orientations, frame)  # type: ignore[arg-type]
    found = [
        bool(check_annotation(image, SIZE, int(orientation), frame))  # type: ignore[arg-type]
        for image, orientation in zip(images, orientations, strict=True)
    ]
    assert not (np.array(found) & ~doubtful).any()
    assert 100 < np.count_nonzero(~doubtful) <= np.count_nonzero(~np.array(found))


def test_distinct_points_of_a_chunk_are_those_of_its_words() -> None:
    random = np.random.default_rng(4)
    words = tuple(AnnotatedWord(str(key), random_polygon(random)) for key in range(500))
    (chunk,) = chunks_of([AnnotatedImage("a.jpg", "a.json", words)])
    points, starts = distinct_rings(chunk)
    for number, word in enumerate(words):
        np.testing.assert_array_equal(points[starts[number] : starts[number + 1]], word.distinct_points)


def test_ordinary_words_are_not_doubtful() -> None:
    square = np.array([[10, 10], [30, 10], [30, 20], [10, 20.0]])
    curved = np.array([[10, 40], [30, 30], [50, 40], [48, 46], [30, 36], [12, 46.0]])
    stars = np.array([[60 + 20 * np.cos(a), 60 + 20 * np.sin(a)] for a in np.arange(5) * 4 * np.pi / 5])
    words = [AnnotatedWord(str(key), points) for key, points in enumerate([square, curved, square + 50, stars])]
    images = [AnnotatedImage("a.jpg", "a.json", tuple(words[:3])), AnnotatedImage("b.jpg", "a.json", tuple(words))]
    (chunk,) = chunks_of(images)
    sizes = np.tile(np.array(SIZE, np.int64), (2, 1))
    doubtful = doubtful_images(chunk, distinct_rings(chunk), sizes, np.ones(2, np.uint8), "stored")
    assert doubtful.tolist() == [False, True]
