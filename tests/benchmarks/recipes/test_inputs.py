import json
from pathlib import Path

import pytest

from benchmarks.recipes.inputs import Places, write_few
from ocr.errors import InputError


def places(folder: Path) -> Places:
    return Places(data=Path("data"), weights=folder, work=Path("work"), checkpoint=None, start=None)


def test_variables_become_paths(tmp_path: Path) -> None:
    assert places(Path("w")).filled(["dataset_base_path=$data", "a=$weights/b.safetensors"]) == [
        "dataset_base_path=data",
        "a=w/b.safetensors",
    ]


def test_a_file_that_was_not_given_is_named() -> None:
    with pytest.raises(InputError, match=r"^--checkpoint is needed"):
        places(Path("w")).filled(["checkpoint=$checkpoint"])


def test_another_content_of_a_file_is_another_setting(tmp_path: Path) -> None:
    override = "model.backbone.weights=$weights/a.safetensors"
    found = []
    for content in (b"first", b"second", b"first"):
        (tmp_path / "a.safetensors").write_bytes(content)
        found.append(places(tmp_path).identities([override]))
    assert list(found[0]) == ["$weights/a.safetensors"]
    assert found[0] == found[2] != found[1]


def test_drawn_pictures_are_known_by_their_settings() -> None:
    found = places(Path("w")).identities(["sets=[{image_path:$work/drawn_harder/images}]"])
    assert list(found) == ["$work/drawn_harder"]
    assert '"min_text_height":6' in found["$work/drawn_harder"]


def test_pasted_words_are_known_by_their_settings() -> None:
    found = places(Path("w")).identities(["sets=[{image_path:$work/pasted/images}]"])
    assert list(found) == ["$work/pasted"]
    assert '"short_share":0.5' in found["$work/pasted"]


def test_the_few_images_are_the_first_by_name(tmp_path: Path) -> None:
    source, output = tmp_path / "all.json", tmp_path / "new" / "few.json"
    source.write_text(json.dumps({"images": {name: {"words": {}, "img_w": 5} for name in ("c.jpg", "a.jpg", "b.jpg")}}))
    write_few(source, output, 2)
    assert json.loads(output.read_text()) == {
        "images": {name: {"words": {}, "img_w": 5} for name in ("a.jpg", "b.jpg")}
    }
