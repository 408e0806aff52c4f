"""The entry point starts the command of its first word. `python` is a stand-in that prints its arguments, to save seconds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENTRYPOINT = ROOT / "docker" / "entrypoint.sh"


@pytest.fixture(scope="module")
def env(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("bin")
    python = folder / "python"
    python.write_text('#!/bin/sh\necho "process $$"\nfor word in "$@"; do echo "$word"; done\n')
    python.chmod(0o755)
    return os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}


def run(*words: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([ENTRYPOINT, *words], env=env, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("word", "script"),
    [
        ("train", "train.py"),
        ("evaluate", "evaluate.py"),
        ("predict", "predict.py"),
        ("export", "export.py"),
        ("compare", "compare_loaders.py"),
        ("prepare", "prepare_data.py"),
        ("inspect", "inspect_data.py"),
    ],
)
def test_a_word_runs_its_script_with_the_arguments_as_they_are(word, script, env):
    _, path, *arguments = run(word, "a=[1, 2]", "b=*", env=env).stdout.splitlines()
    assert Path(path).resolve() == (ROOT / "scripts" / script).resolve(strict=True)
    assert arguments == ["a=[1, 2]", "b=*"]


def test_the_process_becomes_python_so_that_signals_arrive(env):
    with subprocess.Popen([ENTRYPOINT, "train"], env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"process {process.pid}\n"


def test_self_test_runs_the_module(env):
    assert run("self-test", "--device", "cpu", env=env).stdout.splitlines()[1:] == [
        "-m",
        "ocr.self_test",
        "--loader",
        "dali",
        "--device",
        "cpu",
    ]


@pytest.mark.parametrize("words", [(), ("help",), ("--help",)])
def test_help_is_the_default_and_names_every_command(words, env):
    done = run(*words, env=env)
    assert done.returncode == 0
    for word in ("train", "evaluate", "predict", "export", "compare", "prepare", "inspect", "self-test"):
        assert f"  {word} " in done.stdout


def test_any_other_word_is_run_as_a_command_with_its_exit_code(env):
    done = run("sh", "-c", "echo done; exit 7", env=env)
    assert (done.stdout, done.returncode) == ("done\n", 7)
    assert run("not-a-command", env=env).returncode == 127


def test_the_health_check_passes_for_a_user_without_an_account_or_a_home(tmp_path):
    """Runs the real self-test, which writes to the temporary folder only."""
    (tmp_path / "tmp").mkdir()
    env = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "TMPDIR": str(tmp_path / "tmp")}
    env |= {"HOME": "/nonexistent", "PYTHONPATH": os.environ.get("PYTHONPATH", ""), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [ENTRYPOINT, "self-test", "--beside-a-run"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "self-test passed"
    assert list(tmp_path.iterdir()) == [tmp_path / "tmp"]
    left = {path.name.partition("_")[0]: list(path.iterdir()) for path in (tmp_path / "tmp").iterdir()}
    assert left in ({}, {"torchinductor": []})  # torch makes an empty folder on import
