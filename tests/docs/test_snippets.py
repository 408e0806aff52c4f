"""The examples on the pages work: Python blocks run, and commands have only keys that exist."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from pkgutil import resolve_name

import pytest

from benchmarks.loaders.config import CompareConfig, as_overrides
from benchmarks.sweep.config import SweepConfig
from ocr.command_line import prepare_hydra
from ocr.config import EvaluateConfig, ExportConfig, InspectConfig, PredictConfig, PrepareConfig, TrainConfig
from tests.composing import quickly_composed

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = {
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "predict": PredictConfig,
    "export": ExportConfig,
    "prepare_data": PrepareConfig,
    "inspect_data": InspectConfig,
    "compare_loaders": CompareConfig,
    "sweep_defaults": SweepConfig,
}


def python_blocks() -> Iterator[object]:
    for page in PAGES:
        for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)):
            if "import " not in block:  # a fragment
                continue
            yield pytest.param(block, id=f"{page.name}-{number}")


def commands() -> set[tuple[str, str]]:
    """Script and arguments of each command on a page; a line that ends with a backslash goes on."""
    text = "\n".join(page.read_text().replace("\\\n", " ") for page in PAGES)
    return set(re.findall(r"uv run scripts/(\w+)\.py([^\n`#|]*)", text))


@pytest.fixture
def workplace(tmp_path: Path, drawn: Path, untrained_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: an untrained network in best.ckpt, FOLDER with images, and receipt.jpg, one of them."""
    (tmp_path / "best.ckpt").symlink_to(untrained_checkpoint)
    (tmp_path / "FOLDER").symlink_to(drawn / "images/val")
    (tmp_path / "receipt.jpg").symlink_to(min((drawn / "images/val").glob("*.jpg")))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("block", list(python_blocks()))
def test_python_blocks_run(block: str, workplace: Path) -> None:
    exec(compile(block, "snippet", "exec"), {"__name__": "snippet"})


def exists(name: str) -> bool:
    try:
        resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


def test_documented_commands_have_only_keys_that_exist(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "FOLDER").symlink_to(drawn)  # data=auto looks at it
    monkeypatch.chdir(tmp_path)
    prepare_hydra(("compare_schema", CompareConfig), ("sweep_schema", SweepConfig))
    checked = 0
    for script, arguments in sorted(commands()):
        overrides = [argument for argument in shlex.split(arguments) if argument != "..."]
        if script not in COMMANDS or any(argument.startswith("--") for argument in as_overrides(overrides)):
            continue
        required = {"evaluate": ["checkpoint=c"], "predict": ["checkpoint=c"], "prepare_data": ["output=o"]}.get(
            script, []
        )
        quickly_composed(COMMANDS[script], script, [*required, *as_overrides(overrides)])
        checked += 1
    assert checked >= 15


def test_everything_on_the_api_page_exists() -> None:
    names = re.findall(r"^::: (\S+)$", (ROOT / "docs/python_api.md").read_text(), re.MULTILINE)
    missing = [name for name in names if not exists(name)]
    assert names
    assert missing == []
