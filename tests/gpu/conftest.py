"""Fixtures of the GPU checks: their options, the device, the data sets, and `record`, which keeps their figures.

torch and the trainer are imported inside the fixtures: the tests of the driver use this file without them.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import numpy as np
    import torch

    from ocr.config import TrainConfig
    from ocr.datasets.base import ValidatedOCRDataset


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("GPU checks, as scripts/gpu_check.sh calls them")
    group.addoption("--cpu-check", action="store_true", help="run the checks on the CPU, on small sizes")
    group.addoption("--short-check", action="store_true", help="fewer images and steps")
    group.addoption("--check-data", type=Path, help="data set in the Upstage layout; default: drawn images")
    group.addoption("--check-receipts", action="store_true", help="train on --check-data for eight minutes")
    group.addoption("--check-folder", type=Path, help="data sets and checkpoints that several processes share")


def _option(config: pytest.Config, name: str) -> Any:
    return config.getoption(name, default=None)  # unregistered where pytest was started for another folder


def pytest_runtest_setup(item: pytest.Item) -> None:
    if hasattr(item.config, "workerinput") and item.get_closest_marker("gpu"):  # a worker of pytest-xdist
        pytest.skip("a GPU check needs the machine to itself: scripts/gpu_check.sh")


class Record:
    """Records the figures of one test: value, unit and limit.

    A test continues after a figure misses its limit, so that the report shows all figures, and fails at its end.
    """

    def __init__(self, write: Callable[..., None]) -> None:
        self.missed: list[str] = []
        self._write = write

    def __call__(
        self,
        name: str,
        value: Any,
        unit: str = "",
        *,
        at_most: float | None = None,
        at_least: float | None = None,
        equals: Any = None,
    ) -> None:
        """Records a figure; at most one of the limits is given. A figure without one is only reported.

        Args:
            value: any JSON value; a list of numbers is shown as its median and range. NaN misses every limit.
        """
        figure: dict[str, Any] = {"name": name, "value": value, "unit": unit}
        for limit, asked, holds in (
            (at_most, f"at most {at_most:g}" if at_most is not None else "", operator.le),
            (at_least, f"at least {at_least:g}" if at_least is not None else "", operator.ge),
            (equals, f"the same as {equals}" if equals else "none", operator.eq),
        ):
            if limit is not None:
                figure |= {"asked": f"{asked} {unit}".strip(), "passed": bool(holds(value, limit))}
        self._write(figure=figure)
        if figure.get("passed") is False:
            self.missed.append(f"{name}: measured {value} {unit}".strip() + f", limit: {figure['asked']}")


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Record:
    records = request.config.pluginmanager.get_plugin("records")

    def write(**content: Any) -> None:
        if records is None:
            print(request.node.nodeid, json.dumps(content))
        else:
            records.write(request.node.nodeid, **content)

    return Record(write)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
    """Fails a test at its end if one of its figures missed its limit."""
    result = yield
    kept = pyfuncitem.funcargs.get("record")
    if isinstance(kept, Record) and kept.missed:
        pytest.fail("; ".join(kept.missed), pytrace=False)
    return result


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """The device that is checked: the GPU, or the CPU with --cpu-check."""
    from ocr.device import resolve_device

    return resolve_device("cpu" if _option(request.config, "--cpu-check") else "gpu")


@pytest.fixture(scope="session")
def on_cpu(device: torch.device) -> bool:
    """Whether the checks run on the CPU: with smaller sizes, and without the checks that need a GPU."""
    return device.type == "cpu"


@pytest.fixture
def gpu_only(on_cpu: bool) -> None:
    if on_cpu:
        pytest.skip("only a GPU can show this")


@pytest.fixture(scope="session")
def short(request: pytest.FixtureRequest) -> bool:
    return bool(_option(request.config, "--short-check"))


@pytest.fixture(scope="session")
def check_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _option(request.config, "--check-folder") or tmp_path_factory.mktemp("gpu")


@pytest.fixture(scope="session")
def drawn_set(check_folder: Path, on_cpu: bool, short: bool) -> Path:
    """Root of a drawn data set; on a GPU the same as that of `make demo`."""
    from ocr.synthetic.config import SyntheticConfig
    from ocr.synthetic.data_set import draw_data_set

    num_train, num_val = (12, 4) if short else (24, 8) if on_cpu else (96, 32)
    return draw_data_set(SyntheticConfig(num_train=num_train, num_val=num_val), check_folder / "drawn")


@pytest.fixture(scope="session")
def given_set(request: pytest.FixtureRequest) -> Path:
    """Root of the user's data set, or of the drawn one."""
    return _option(request.config, "--check-data") or request.getfixturevalue("drawn_set")


@pytest.fixture(scope="session")
def learnable_set(request: pytest.FixtureRequest, check_folder: Path, on_cpu: bool) -> Path:
    """Root of the set that training uses: the drawn one; on a CPU one so easy that it is learned in seconds."""
    import numpy as np

    if not on_cpu:
        return request.getfixturevalue("drawn_set")
    root = check_folder / "bars"
    for number, (split, count) in enumerate((("train", 16), ("val", 8))):
        if not (root / "jsons" / f"{split}.json").is_file():
            _draw_bars(root, split, count, np.random.default_rng(number))
    return root


def _draw_bars(root: Path, split: str, count: int, rng: np.random.Generator) -> None:
    """Draws dark bars on light paper, each annotated as a word."""
    import numpy as np
    from PIL import Image

    (root / "images" / split).mkdir(parents=True, exist_ok=True)
    (root / "jsons").mkdir(exist_ok=True)
    images: dict[str, Any] = {}
    for number in range(count):
        picture = rng.integers(200, 256, (256, 256, 3), dtype=np.uint8)
        words = {}
        for line, top in enumerate(range(16, 220, 48)):
            left, width, height = (int(value) for value in rng.integers((8, 100, 24), (60, 180, 34)))
            picture[top : top + height, left : left + width] //= 4
            corners = [[left, top], [left + width, top], [left + width, top + height], [left, top + height]]
            words[f"{line:04d}"] = {"points": corners}
        name = f"bars_{number}.jpg"
        Image.fromarray(picture).save(root / "images" / split / name, quality=90)
        images[name] = {"img_w": 256, "img_h": 256, "words": words}
    (root / "jsons" / f"{split}.json").write_text(json.dumps({"images": images}))


@pytest.fixture(scope="session")
def open_split() -> Callable[..., ValidatedOCRDataset]:
    """A function that opens a split of a set in the Upstage layout; further keywords go to its DatasetConfig."""
    from ocr.datasets.base import ValidatedOCRDataset
    from ocr.datasets.plan import SamplePlanner
    from ocr.datasets.schemas import DatasetConfig

    def opened(root: Path, split: str, pipeline: Any, **config: Any) -> ValidatedOCRDataset:
        images, annotations = root / "images" / split, root / "jsons" / f"{split}.json"
        dataset_config = DatasetConfig(image_path=str(images), annotation_path=str(annotations), **config)
        return ValidatedOCRDataset(dataset_config, SamplePlanner(pipeline, training=split == "train", seed=0))

    return opened


@pytest.fixture(scope="session")
def training_config(learnable_set: Path, on_cpu: bool) -> Callable[..., TrainConfig]:
    """A function that composes the config of scripts/train.py on `learnable_set` with the given overrides.

    The recipe is that of data=synthetic, smaller on a CPU.
    """
    from ocr.command_line import compose_config, prepare_hydra
    from ocr.config import TrainConfig

    common = [
        "draw_synthetic=false",
        f"dataset_base_path={learnable_set}",
        f"device={'cpu' if on_cpu else 'gpu'}",
        "logger.num_pictures=0",
        "model.backbone.weights=null",
    ]
    small = [
        "pipeline.image_size=128",
        "pipeline.augmentation.crop_size=96",
        "pipeline.augmentation.rotation_degrees=0",
        "pipeline.augmentation.scale_min=0.9",
        "pipeline.augmentation.scale_max=1.1",
        "model.fpn_channels=32",
        "optimizer.lr=4.0e-3",
        "trainer.precision=32-true",
        "trainer.max_epochs=8",
        "dataloader.batch_size=2",
        "postprocess.box_thresh=0.4",
    ]
    prepare_hydra()

    def composed(*overrides: str) -> TrainConfig:
        return compose_config(TrainConfig, "train", [*common, *(small if on_cpu else []), *overrides])

    return composed


@pytest.fixture(scope="session")
def trained_checkpoint(training_config: Callable[..., TrainConfig], check_folder: Path, on_cpu: bool) -> Path:
    """Checkpoint of a run on `learnable_set`, trained by the first process that needs it."""
    from ocr.training.fit import train

    folder = check_folder / "checkpoint"
    if not (folder / "finished").is_file():
        epochs = 8 if on_cpu else 12
        train(training_config(f"trainer.max_epochs={epochs}", f"trainer.check_val_every_n_epoch={epochs}"), folder)
        (folder / "finished").touch()
    return folder / "checkpoints" / "last.ckpt"
