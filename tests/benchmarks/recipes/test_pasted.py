import json
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from benchmarks.recipes.pasted import PastedConfig, PastedGroup, cut_words, paste_words, write_pasted

ORIENTATION = 274
"""The EXIF tag."""


def config_of(name: str, num_images: int, seed: int = 7) -> PastedConfig:
    group = PastedGroup(sets=(name,), num_images=num_images, min_words=4, max_words=6)
    return PastedConfig(groups=(group,), seed=seed)


def entries_of(root: Path) -> dict[str, Any]:
    images: dict[str, Any] = json.loads((root / "jsons/train.json").read_bytes())["images"]
    return images


def pixels_of(path: Path) -> npt.NDArray[np.uint8]:
    return np.asarray(cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION), np.uint8)


def is_pasted(name: str) -> bool:
    return name.startswith("pasted_")


def mask_of(points: npt.ArrayLike, entry: dict[str, Any]) -> npt.NDArray[np.uint8]:
    mask = np.zeros((entry["img_h"], entry["img_w"]), np.uint8)
    cv2.fillPoly(mask, [np.rint(np.asarray(points)).astype(np.int32)], [1])
    return mask


def straightened(image: npt.NDArray[np.uint8], points: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Returns the grey values in a quadrilateral as an upright rectangle."""
    corners = np.array([[0, 0], [120, 0], [120, 30], [0, 30]], np.float32)
    matrix = cv2.getPerspectiveTransform(np.asarray(points, np.float32), corners)
    warped = cv2.warpPerspective(image, matrix, (120, 30), flags=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(warped, cv2.COLOR_BGR2GRAY), np.float64)


def correlation(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> float:
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


def ground(height: int, width: int, grey: int) -> npt.NDArray[np.uint8]:
    return np.full((height, width, 3), grey, np.uint8)


def sign(grey: int = 200, ink: int = 40) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:
    """Returns a picture of 400 x 300 pixels with one word that rises by 20 degrees, and its entry."""
    upright = ground(300, 400, grey)
    cv2.putText(upright, "Price", (150, 160), cv2.FONT_HERSHEY_SIMPLEX, 1, [ink] * 3, 2, cv2.LINE_AA)
    turn = cv2.getRotationMatrix2D((200, 150), 20, 1)
    image = cv2.warpAffine(upright, turn, (400, 300), borderValue=[grey] * 3)
    box = np.array([[146, 132], [236, 132], [236, 168], [146, 168]], np.float64)
    points = (np.c_[box, np.ones(4)] @ turn.T).tolist()
    return np.asarray(image, np.uint8), {"words": {"a": {"points": points, "transcription": "Price"}}}


def few_images(root: Path, folder: Path, number: int) -> None:
    """Writes a data set of the first images of another one."""
    (folder / "images/train").mkdir(parents=True)
    (folder / "jsons").mkdir()
    entries = dict(sorted(entries_of(root).items())[:number])
    for name in entries:
        (folder / "images/train" / name).symlink_to(root / "images/train" / name)
    (folder / "jsons/train.json").write_text(json.dumps({"images": entries}))


@pytest.fixture(scope="module", params=["drawn", "sroie", "icdar15"])
def written(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Path, Path]:
    """Entries of the source by the names of the written files, the source, and the set with pasted words."""
    folder = tmp_path_factory.mktemp("pasted")
    few_images(request.getfixturevalue(request.param), folder / "few", 6)
    write_pasted(config_of("few", 5), folder, folder / "out")
    entries = {f"few_{Path(name).stem}.jpg": entry for name, entry in entries_of(folder / "few").items()}
    return entries, folder / "few", folder / "out"


def test_the_image_keeps_its_words_and_its_size(written: tuple[dict[str, Any], Path, Path]) -> None:
    sources, _, root = written
    found = entries_of(root)
    assert len(found) == 5
    assert sum(is_pasted(key) for entry in found.values() for key in entry["words"]) >= 5
    for name, entry in found.items():
        own = {key: word for key, word in entry["words"].items() if not is_pasted(key)}
        assert entry | {"words": own} == sources[name]
        with Image.open(root / "images/train" / name) as image:
            assert image.size == (entry["img_w"], entry["img_h"])
            assert ORIENTATION not in image.getexif()


def test_pasted_words_lie_inside_and_overlap_no_other(written: tuple[dict[str, Any], Path, Path]) -> None:
    for entry in entries_of(written[2]).values():
        covered = np.zeros((entry["img_h"], entry["img_w"]), np.uint8)
        for key, word in sorted(entry["words"].items(), key=lambda item: is_pasted(item[0])):
            mask = mask_of(word["points"], entry)
            if is_pasted(key):
                points = np.array(word["points"])
                assert (points >= 0).all()
                assert (points <= (entry["img_w"], entry["img_h"])).all()
                assert not (mask & covered).any()
            covered |= mask


def test_pixels_outside_pasted_words_stay(written: tuple[dict[str, Any], Path, Path]) -> None:
    _, few, root = written
    for name, entry in entries_of(root).items():
        near = np.zeros((entry["img_h"], entry["img_w"]), np.uint8)
        for key, word in entry["words"].items():
            if is_pasted(key):
                near |= mask_of(word["points"], entry)
        near = cv2.dilate(near, np.ones((41, 41), np.uint8))  # JPEG spreads changes over its blocks
        before = pixels_of(few / "images/train" / name.removeprefix("few_")).astype(int)
        after = pixels_of(root / "images/train" / name).astype(int)
        assert np.abs(after - before)[near == 0].mean() < 4


def test_a_pasted_word_looks_like_its_source(written: tuple[dict[str, Any], Path, Path]) -> None:
    _, few, _ = written
    sources = entries_of(few)
    images = {name: pixels_of(few / "images/train" / name) for name in sources}
    words = [word for name in sources for word in cut_words(name, images[name], sources[name])]
    rng = np.random.default_rng(0)
    num_compared = 0
    for name, entry in sources.items():
        others = [word for word in words if word.source != name]
        taken = [word["points"] for word in entry["words"].values()]
        image, placed = paste_words(rng, images[name], taken, [others] * 6)
        for one in placed:
            annotated = list(sources[one.word.source]["words"].values())
            if Counter(word["transcription"] for word in annotated)[one.word.transcription] > 1:
                continue  # not known which of them it is
            (source,) = (word for word in annotated if word["transcription"] == one.word.transcription)
            if len(source["points"]) != 4:
                continue
            assert not source.get("illegibility")
            wanted = straightened(images[one.word.source], source["points"])
            assert correlation(straightened(image, one.polygon), wanted) > 0.8, (name, one.word.source, source)
            num_compared += 1
    assert num_compared >= 3


def test_equal_seeds_give_equal_bytes(drawn: Path, tmp_path: Path) -> None:
    found = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_pasted(config_of(drawn.name, 4, seed), drawn.parent, tmp_path / name)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        found.append({str(path.relative_to(tmp_path / name)): path.read_bytes() for path in files})
    assert found[0] == found[1] != found[2]
    assert len(found[0]) == 5


def test_size_and_angle_follow_the_longest_side() -> None:
    image, entry = sign()
    (word,) = cut_words("a", image, entry)
    before = ground(500, 800, 230)
    after, (placed,) = paste_words(np.random.default_rng(0), before, [], [[word]])
    source = np.array(entry["words"]["a"]["points"])
    moved = placed.polygon - placed.polygon.mean(axis=0)
    np.testing.assert_allclose(moved, 2 * (source - source.mean(axis=0)), atol=0.5)
    assert correlation(straightened(after, placed.polygon), straightened(image, source)) > 0.95


def test_only_the_ink_is_pasted() -> None:
    image, entry = sign(grey=200)
    (word,) = cut_words("a", image, entry)
    before = ground(300, 400, 230)
    after, _ = paste_words(np.random.default_rng(0), before, [], [[word]])
    changed = np.abs(after.astype(int) - before).max(axis=-1) > 2
    ink = np.abs(image.astype(int) - 200).max(axis=-1) > 2
    assert 0.9 * ink.sum() < changed.sum() < 1.1 * ink.sum()
    assert abs(int(after.min()) - (40 + 30)) <= 3


def test_words_keep_half_a_text_height_to_others() -> None:
    image, entry = sign()
    words = cut_words("a", image, entry)
    height = float(np.ptp(words[0].polygon[:, 1]))
    for room, num_expected in ((height + 0.8 * words[0].sides[0], 0), (height + 2 * words[0].sides[0], 1)):
        taken = [[[0, 0], [400, 0], [400, 80], [0, 80]], [[0, 80 + room], [400, 80 + room], [400, 300], [0, 300]]]
        _, placed = paste_words(np.random.default_rng(0), ground(300, 400, 230), taken, [words])
        assert len(placed) == num_expected
        for one in placed:
            assert one.polygon[:, 1].min() >= 80 + words[0].sides[0] / 2 - 1
            assert one.polygon[:, 1].max() <= 80 + room - words[0].sides[0] / 2 + 1


def test_a_full_image_gets_no_word() -> None:
    image, entry = sign()
    words = cut_words("a", image, entry)
    taken = [[[0, 0], [400, 0], [400, 300], [0, 300]]]
    after, placed = paste_words(np.random.default_rng(0), image, taken, [words] * 5)
    assert placed == []
    assert (after == image).all()


@pytest.mark.parametrize("grey", [60, 255])
def test_black_text_is_not_pasted_on_other_ground_than_its_own(grey: int) -> None:
    image, entry = sign(grey=160, ink=10)
    words = cut_words("a", image, entry)
    assert len(words) == 1
    assert paste_words(np.random.default_rng(0), ground(300, 400, grey), [], [words])[1] == []


def test_a_word_that_would_lose_its_contrast_is_not_pasted() -> None:
    image, entry = sign(grey=50, ink=5)
    words = cut_words("a", image, entry)
    assert len(words) == 1
    assert paste_words(np.random.default_rng(0), ground(300, 400, 10), [], [words])[1] == []


def test_ignored_words_are_not_cut() -> None:
    image, entry = sign()
    entry["words"]["a"]["illegibility"] = True
    assert cut_words("a", image, entry) == []


@pytest.mark.parametrize("ignored", [True, False])
def test_a_word_beside_another_one_is_not_cut(ignored: bool) -> None:
    image, entry = sign()
    other = np.add(entry["words"]["a"]["points"], (20, 30))
    entry["words"]["b"] = {"points": other.tolist(), "transcription": "x", "illegibility": ignored}
    assert cut_words("a", image, entry) == []


def test_a_word_on_a_plate_of_its_own_is_not_cut() -> None:
    image, entry = sign(grey=200)
    inside = np.zeros(image.shape[:2], np.uint8)
    cv2.fillPoly(inside, [np.array(entry["words"]["a"]["points"]).astype(np.int32)], [1])
    image[inside == 0] = 90
    assert cut_words("a", image, entry) == []


def test_a_word_at_the_edge_of_its_image_is_not_cut() -> None:
    image, entry = sign()
    left = int(min(x for x, _ in entry["words"]["a"]["points"]))
    entry["words"]["a"]["points"] = [[x - left, y] for x, y in entry["words"]["a"]["points"]]
    assert cut_words("a", image[:, left:].copy(), entry) == []
