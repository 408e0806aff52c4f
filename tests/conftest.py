"""Fixtures shared by all tests: a drawn data set, and real ones where this machine has them.

torch and the trainer are imported inside the fixtures: pytest-xdist's controller loads this file too, and the workers wait for it.
"""

import logging
import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

# Before torch is loaded. With trainer.devices=auto a run on two GPUs would start pytest again for the second one.
os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def _own_cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps what tests cache out of the user's cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _libraries_are_loaded_once() -> None:
    """Sets what the server of processes loads. The first test that forks starts it, and the benchmarks ask for less."""
    from tests.programs import fork_server  # here, as `tests` may still be another package when this file is loaded

    fork_server()


def _data_set(name: str) -> Path:
    path = SHARED_DATA / name
    if not path.is_dir():
        pytest.skip(f"data set {name} is not at ../shared/data/{name}")
    return path


@pytest.fixture(scope="session")
def sroie() -> Path:
    """Real receipts: images/{train,val}, jsons/{train,val}.json."""
    return _data_set("sroie_lines")


@pytest.fixture(scope="session")
def icdar15() -> Path:
    """Real street scenes with don't-care words, laid out like `sroie`."""
    return _data_set("icdar15_words")


@pytest.fixture(scope="session")
def odd_jpegs() -> Path:
    """50 unusual image files with a manifest.json."""
    return _data_set("odd_jpegs")


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small receipts and notices in the Upstage layout: 10 training and 8 validation images of at most 384 pixels, half of them
    rotated by EXIF, one in ten without text. All test processes share the folder, so no test may write to it."""
    from ocr.synthetic.config import SyntheticConfig
    from ocr.synthetic.data_set import draw_data_set

    folder = tmp_path_factory.getbasetemp()
    is_worker = folder.name.startswith("popen-")  # pytest-xdist: the parent folder is shared
    config = SyntheticConfig(num_train=10, num_val=8, exif_share=0.5, blank_share=0.1, min_side=256, max_side=384)
    return draw_data_set(config, (folder.parent if is_worker else folder) / "drawn", num_workers=1)


@pytest.fixture(scope="session")
def untrained_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a small network with random weights, whose input is 320 pixels."""
    import torch

    from ocr.checkpoint import CONFIG_KEY, MODEL_PREFIX
    from ocr.config import TrainConfig
    from ocr.models.dbnet import build_dbnet

    config = TrainConfig.model_validate(
        {"pipeline": {"image_size": 320}, "model": {"fpn_channels": 16, "backbone": {"weights": None}}}
    )
    torch.manual_seed(0)
    weights = build_dbnet(config.model, config.targets.map_stride).state_dict()
    checkpoint = {
        CONFIG_KEY: config.model_dump(mode="json"),
        "state_dict": {f"{MODEL_PREFIX}{key}": value for key, value in weights.items()},
    }
    path = tmp_path_factory.mktemp("untrained") / "best.ckpt"
    torch.save(checkpoint, path)
    return path


@pytest.fixture(autouse=True)
def _logged_from_warnings_on() -> None:
    """Undoes what a program has set that an earlier test ran in this process: Hydra sets the level of all loggers."""
    logging.getLogger().setLevel(logging.WARNING)


def pytest_configure() -> None:
    # A shell's background jobs ignore Ctrl-C, and so would the programs that the tests start and stop.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Imports the libraries as the commands do. Loaders and tests that collect garbage need not look at them each time then."""
    from ocr.quick_imports import quick_imports

    with quick_imports():
        return (yield)


def _place(item: pytest.Item) -> int:
    """Returns where a test stands in the order: the longest files come first, so that both workers end at the same time."""
    long_parts = (
        "scripts",
        "export",
        "training",
        "docker",
        "test_detector.py",
        "test_shipped_weights.py",
        "test_without_dali.py",
    )
    parts = item.nodeid.partition("::")[0].split("/")
    return next((place for place, part in enumerate(long_parts) if part in parts), len(long_parts))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    import torch

    items.sort(key=_place)
    if torch.cuda.is_available() or config.getoption("--cpu-check", default=False):  # an option of tests/gpu
        return
    no_gpu = pytest.mark.skip(reason="no CUDA device on this machine")
    for item in items:
        if item.get_closest_marker("gpu"):  # not a keyword: tests/gpu has it as a folder
            item.add_marker(no_gpu)
