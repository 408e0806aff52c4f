"""The example client of a Triton server: which part of the input it sends, and what its user reads after a mistake."""

import json
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from ocr.checkpoint import CONFIG_KEY
from ocr.config import TrainConfig
from ocr.export.graph import metadata
from ocr.export.triton import CLIENT
from ocr.export.triton_client import ServedNetwork, find_text

PAGES = ((200, 900), (900, 200), (333, 777), (640, 640), (1000, 990))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The folder of a model, without its network."""
    shutil.copyfile(CLIENT, tmp_path / "client.py")
    (tmp_path / "metadata.json").write_text(json.dumps(metadata(TrainConfig(), True, "float32")))
    Image.new("RGB", (64, 64)).save(tmp_path / "page.png")
    return tmp_path


def message(repository: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["client.py", *arguments])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(repository / "client.py"), run_name="__main__")
    return str(end.value)


def change_config(repository: Path, section: str, **values: Any) -> None:
    path = repository / "metadata.json"
    document = json.loads(path.read_text())
    config = json.loads(document[CONFIG_KEY])
    config[section] |= values
    path.write_text(json.dumps(document | {CONFIG_KEY: json.dumps(config), "version": "9.8.7"}))


def test_a_key_of_another_version_is_one_line_with_file_key_and_remedy(repository, monkeypatch):
    change_config(repository, "pipeline", sharpness=3)
    assert message(repository, monkeypatch, "localhost:8000", "page.png") == (
        f"InputError: {repository}/metadata.json: this version cannot read its configuration, which version 9.8.7 "
        "wrote: pipeline.sharpness: no such key; export the checkpoint again with this version, or use that one"
    )


def test_damaged_metadata_are_one_line(repository, monkeypatch):
    for content, expected in (("{", "not JSON"), ("[]", "found a list"), ("{}", "it has no configuration")):
        (repository / "metadata.json").write_text(content)
        said = message(repository, monkeypatch, "localhost:8000", "page.png")
        assert said.startswith(f"InputError: {repository}/metadata.json: {expected}")
        assert "\n" not in said


def test_without_arguments_the_client_shows_its_usage(repository, monkeypatch):
    assert "python client.py localhost:8000 IMAGE" in message(repository, monkeypatch)


def test_a_missing_package_is_one_line_with_the_command(repository, monkeypatch):
    monkeypatch.setitem(sys.modules, "tritonclient", None)  # importing it fails then, as if it were not installed
    said = message(repository, monkeypatch, "localhost:8000", "page.png")
    assert said == "InputError: the client needs a package: pip install 'tritonclient[http]'"


@pytest.mark.parametrize("image_size", [96, 160, 672])
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_the_part_that_is_sent_holds_the_image_and_text_keeps_its_place(image_size, stride):
    config = TrainConfig.model_validate(
        {
            "pipeline": {"image_size": image_size},
            "targets": {"map_stride": stride},
            "postprocess": {"box_thresh": 0.1, "min_side": 0, "unclip_ratio": 0.5},
        }
    )
    sent: list[tuple[int, int]] = []

    def white_is_text(batch: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        count, height, width, _ = batch.shape
        sent.append((height, width))
        cells = batch[..., 0].reshape(count, height // stride, stride, width // stride, stride)
        return cells.mean((2, 4), dtype=np.float32) / 255

    for height, width in PAGES:
        page = np.zeros((height, width, 3), np.uint8)
        page[height // 4 : height * 3 // 4, width // 2 : width * 9 // 10] = 255
        found = find_text(page, ServedNetwork(config, takes_levels=True), white_is_text)
        scale = image_size / max(height, width)
        for side, original in zip(sent[-1], (height, width), strict=True):
            assert original * scale - 1 <= side <= image_size
            assert side % 32 == 0
            assert side < original * scale + 64 + 1
        (polygon,) = found.polygons
        centre = (polygon.min(0) + polygon.max(0)) / 2
        np.testing.assert_allclose(centre, (width * 0.7, height / 2), atol=stride / scale + 1)
