"""The installed program `dali-dbnet`, from a wheel's layout too: in an empty folder, without the checkout."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import ocr
from ocr.commands.dali_dbnet import COMMANDS, main
from ocr.program import in_users_words

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the command line of this process: `typed("train", "seed=1")`."""
    return lambda *arguments: monkeypatch.setattr(sys, "argv", ["/usr/bin/dali-dbnet", *arguments])


def test_an_unknown_command_is_answered_with_the_list_of_commands(typed) -> None:
    typed("predit")
    with pytest.raises(
        SystemExit, match=r"^dali-dbnet predit: no such command; the commands are train, evaluate, .*compare$"
    ):
        main()


@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_help_lists_every_command(typed, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    typed(*arguments)
    main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == list(COMMANDS)


def test_version_is_that_of_the_package(typed, capsys: pytest.CaptureFixture[str]) -> None:
    typed("--version")
    main()
    assert capsys.readouterr().out == f"dali-dbnet {ocr.__version__}\n"


def test_texts_name_the_commands_that_the_user_can_type(typed) -> None:
    text = "uv run scripts/prepare_data.py data=icdar; scripts/train.py needs uv sync --extra s3"
    assert in_users_words(text) == text
    typed()
    assert in_users_words(text) == "dali-dbnet prepare data=icdar; dali-dbnet train needs pip install 'dali-dbnet[s3]'"


def installed_at(folder: Path) -> Path:
    """Lays out a folder as pyproject.toml lays out the wheel, and returns it."""
    text = (ROOT / "pyproject.toml").read_text()
    packages = re.search(r'^packages = \["(.*)"\]$', text, re.MULTILINE)
    assert packages is not None
    included = re.findall(r'^"([a-z]+)" = "(ocr/.+)"$', text, re.MULTILINE)
    for source, target in [*((name, name) for name in packages[1].split('", "')), *included]:
        shutil.copytree(ROOT / source, folder / target, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def test_a_wheel_brings_all_that_the_commands_read(tmp_path: Path) -> None:
    packages = installed_at(tmp_path / "site")
    (tmp_path / "empty").mkdir()
    program = (
        "import sys, ocr.command_line\n"
        "from ocr.commands.dali_dbnet import main\n"
        "sys.argv = ['dali-dbnet', 'compare', '--help']\n"
        "main()\n"
        "import benchmarks\n"
        "print(ocr.command_line.CONFIG_DIR, benchmarks.__file__, 'scripts' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path / "empty",
        env=os.environ | {"PYTHONPATH": str(packages)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "dali-dbnet compare data=upstage" in done.stdout
    assert "scripts/" not in done.stdout
    assert "performance=balanced|baseline|constrained|max" in done.stdout
    bundled = packages / "ocr/_bundled"
    assert done.stdout.splitlines()[-1] == f"{bundled}/configs {bundled}/benchmarks/__init__.py False"


@pytest.mark.parametrize(
    ("command", "override", "told"),
    [
        (
            "evaluate",
            "trainer.max_epochs=3",
            "no such key; the option --cfg job lists all keys; train, inspect",
        ),
        ("evaluate", "splitt=val", "no such key; the nearest is split; the option --cfg job lists all keys"),
        ("evaluate", "dataa=upstage", "no such key; the nearest is data; the option --cfg job lists all keys"),
        ("predict", "pipeline.image_size=64", "no such key; the nearest is image_size; "),
    ],
)
def test_an_unknown_key_is_answered_with_keys_of_this_command(
    typed, monkeypatch: pytest.MonkeyPatch, command: str, override: str, told: str
) -> None:
    typed(command, "checkpoint=c", override)
    monkeypatch.setattr(os, "environ", dict(os.environ))  # Hydra's variables
    with pytest.raises(SystemExit, match=f"'{override.partition('=')[0]}': {re.escape(told)}"):
        main()
