"""The compiled scanner reads an Upstage file exactly as Python's parser does, or leaves it to that parser."""

import json
import random
from pathlib import Path

import pytest

from ocr.datasets.formats.upstage import read_upstage
from ocr.errors import InputError

WORD = '{"points": [[0, 0], [10.5, 0], [1e1, 10]], "transcription": "a\\"b\\u00e9", "orientation": null}'
DOCUMENT = (
    '{"info": {"a": [1, {}]}, "images": {"a.jpg": {"img_w": 20, "img_h": 30.0, "words": {"0001": '
    + WORD
    + ', "0002": {"ignore": true, "points": [[-0.0, 1.25e-3], [123456.789012345678, 9007199254740993], [3, 4]]}}}, '
    '"\\uc601.jpg": {}, "b/c.png": {"words": null, "img_w": null}}, "more": [true, false, null, -1.5E+2]}'
)


def parsed(text: str) -> list[tuple[object, ...]]:
    """Returns what Python's parser makes of a document of the format, without repeated keys."""
    images = []
    for name, entry in json.loads(text)["images"].items():
        words = [
            (key, [[float(x), float(y)] for x, y in word["points"]], bool(word.get("ignore")))
            for key, word in (entry.get("words") or {}).items()
        ]
        images.append((name, (entry.get("img_h"), entry.get("img_w")), words))
    return images


def scanned(path: Path, text: str | bytes) -> list[tuple[object, ...]]:
    path.write_bytes(text.encode(errors="surrogatepass") if isinstance(text, str) else text)
    images = list(read_upstage(path))
    assert not any(image.problems for image in images)
    return [
        (image.filename, image.declared_size, [(word.key, word.points.tolist(), word.ignore) for word in image.words])
        for image in images
    ]


def test_numbers_escapes_and_unknown_members_are_read(tmp_path: Path) -> None:
    assert scanned(tmp_path / "a.json", DOCUMENT) == parsed(DOCUMENT)
    spaced = json.dumps(json.loads(DOCUMENT), indent=3)
    assert scanned(tmp_path / "a.json", spaced) == parsed(DOCUMENT)


def test_numbers_are_rounded_as_python_rounds_them(tmp_path: Path) -> None:
    draw = random.Random(1)
    texts = [repr(draw.uniform(-2000, 2000)) for _ in range(500)]
    texts += [f"{draw.uniform(0, 9):.{digits}f}" for digits in range(25) for _ in range(10)]
    texts += [f"{draw.randrange(10**18)}e{power}" for power in range(-330, 300, 7)]
    texts += ["0", "-0", "-0.0", "1e400", "9007199254740993", "999999999999999999", "0.1e-400", "5e-324"]
    points = ", ".join(f"[{text}, {text}]" for text in texts)
    ((_, _, ((_, found, _),)),) = scanned(
        tmp_path / "a.json", f'{{"images": {{"a": {{"words": {{"1": {{"points": [{points}]}}}}}}}}}}'
    )
    assert [repr(x) for x, _ in found] == [repr(float(json.loads(text))) for text in texts]


@pytest.mark.parametrize("num_images", [3000, 40_000])
def test_a_file_of_several_windows_is_read_whole(tmp_path: Path, num_images: int) -> None:
    entry = {"img_w": 20, "img_h": 30, "words": {"w": {"points": [[0, 0], [9, 0], [9, 9]], "transcription": "x" * 200}}}
    odd = {"words": {"\\": {"points": [[0, 0], [9, 0], [9, 9]]}}}
    images = {f"{number}.jpg": odd if number % 977 == 5 else entry for number in range(num_images)}
    (tmp_path / "a.json").write_text(json.dumps({"images": images, "end": ["x" * 100]}))
    chunks = list(read_upstage(tmp_path / "a.json").chunks())
    assert [name for chunk in chunks for name in chunk.filenames] == list(images)
    assert {key for chunk in chunks for key in chunk.keys} == {"w", "\\"}
    shares = [chunk.share_read for chunk in chunks]
    assert shares == sorted(shares)
    assert shares[0] < 0.9


def test_a_damaged_file_is_read_or_refused_as_by_python(tmp_path: Path) -> None:
    draw = random.Random(2)
    alphabet = '{}[]",:0 1-.eE\\utrfalsn\x00\xff\n'
    num_read = 0
    for _ in range(400):
        text = list(DOCUMENT)
        for _ in range(draw.randint(1, 2)):
            place = draw.randrange(len(text))
            text[place : place + draw.randint(0, 2)] = draw.choice(alphabet) * draw.randint(0, 2)
        mutated = "".join(text)
        try:
            expected = json.loads(mutated)
        except ValueError:
            with pytest.raises(InputError):
                scanned(tmp_path / "a.json", mutated)
            continue
        try:
            found = scanned(tmp_path / "a.json", mutated)
        except (InputError, AssertionError):
            continue  # not of this format, or with a problem: test_upstage.py
        num_read += 1
        if len(set(map(str, found))) == len(expected["images"]):
            assert found == parsed(mutated)
    assert num_read > 40
