"""The parser, the build context, and a small Dockerfile carried out for real."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "docker" / "run_steps.py"

DOCKERFILE = """\
ARG BASE=scratch
FROM ${BASE}
ARG NAME=nobody
ENV GREETING="hello ${NAME}" \\
    COUNT=1
WORKDIR /opt/steps-test
COPY data/ ./data/
COPY one.txt start.sh ./
RUN --mount=type=cache,target=/opt/steps-cache \\
    echo "$GREETING" > greeting && echo kept > /opt/steps-cache/kept \\
    && useradd --uid 4321 steps-tester && install -d -o steps-tester /opt/steps-test/own
USER steps-tester
RUN id -u > own/uid && ! touch /opt/steps-test/not-mine 2> /dev/null
HEALTHCHECK --interval=1m CMD ["test", "-f", "/opt/steps-test/data/in.txt"]
ENTRYPOINT ["/opt/steps-test/start.sh"]
CMD ["nothing", "given"]
"""


@pytest.fixture(scope="module")
def module(script):
    return script("run_steps")


@pytest.fixture
def context(tmp_path) -> Path:
    folder = tmp_path / "context"
    (folder / "data" / "__pycache__").mkdir(parents=True)
    (folder / "data" / "in.txt").write_text("in")
    (folder / "data" / "__pycache__" / "x.pyc").write_text("compiled")
    (folder / "secret.txt").write_text("secret")
    (folder / "one.txt").write_text("1")
    (folder / "start.sh").write_text('#!/bin/sh\necho "start $(id -u) $(cat greeting) $* ${PASSED:-none}"\n')
    (folder / "start.sh").chmod(0o755)
    (folder / ".dockerignore").write_text("# all, then by name\n*\n!data\n!one.txt\n!start.sh\n**/__pycache__\n")
    (folder / "Dockerfile").write_text(DOCKERFILE)
    return folder


def test_continued_lines_are_one_step_with_its_first_line(module, context):
    steps = module.read_steps(context / "Dockerfile")
    assert [(step.line, step.name) for step in steps[:5]] == [
        (1, "ARG"),
        (2, "FROM"),
        (3, "ARG"),
        (4, "ENV"),
        (6, "WORKDIR"),
    ]
    assert module.key_values(steps[3].value, {"NAME": "you"}) == {"GREETING": "hello you", "COUNT": "1"}


def test_variables_with_and_without_alternatives(module):
    variables = {"A": "1", "EMPTY": ""}
    text = '$A ${A} "${EMPTY:-x y}" ${EMPTY:+no} ${A:+yes}'
    assert module.words(text, variables) == ["1", "1", "x y", "", "yes"]


def test_only_what_dockerignore_lets_in_is_in_the_context(module, context):
    assert module.context_files(context) == ["data/in.txt", "one.txt", "start.sh"]


def test_the_context_of_this_repository_is_small_and_holds_what_is_tracked(module):
    files = module.context_files(ROOT)
    folders = {path.split("/")[0] for path in files}
    assert folders == {
        "LICENSE",
        "README.md",
        "configs",
        "dali_pipelines",
        "docker",
        "ocr",
        "pyproject.toml",
        "scripts",
    }
    assert sum((ROOT / path).stat().st_size for path in files) < 3_000_000
    tracked = subprocess.run(
        ["git", "-C", ROOT, "ls-files"], capture_output=True, text=True, check=False
    ).stdout.split()
    if tracked:
        assert {path for path in tracked if path.startswith(("ocr/", "configs/"))} <= set(files)


@pytest.fixture(scope="module")
def overlay(tmp_path_factory) -> None:
    """Skips where root, namespaces or overlays are not to be had."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting an overlay needs Linux and root")
    folder = tmp_path_factory.mktemp("overlay")
    for name in ("upper", "work", "root"):
        (folder / name).mkdir()
    layers = f"lowerdir=/,upperdir={folder}/upper,workdir={folder}/work"
    mount = f"mount -t overlay overlay -o {layers} {folder}/root"
    done = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "sh", "-c", mount], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no overlay can be mounted here: {done.stderr.decode().strip()}")


def command(context: Path) -> list[str | Path]:
    script = [sys.executable, SCRIPT, context / "Dockerfile"]
    return [*script, "--context", context, "--workdir", context.parent / "work"]


def run_steps(context: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*command(context), *options], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.usefixtures("overlay")
def test_steps_run_in_order_and_leave_nothing_behind(context):
    cache = context.parent / "cache"
    options = ["--build-arg", "NAME=you", "--cache", str(cache), "--env", "PASSED=on", "--run", "a 'b c'"]
    done = run_steps(context, *options, "--run-as", "777:777 last")
    assert done.returncode == 0, done.stdout + done.stderr
    started = [line for line in done.stdout.splitlines() if line.startswith("start")]
    assert started == [
        "start 4321 hello you nothing given on",
        "start 4321 hello you a b c on",
        "start 777 hello you last on",
    ]
    assert "all steps of Dockerfile passed" in done.stdout
    assert (cache / "opt_steps-cache" / "kept").read_text() == "kept\n"
    assert list((context.parent / "work").iterdir()) == []
    assert not Path("/opt/steps-test").exists()
    assert "steps-tester" not in Path("/etc/passwd").read_text()


@pytest.mark.usefixtures("overlay")
@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("COPY one.txt", "COPY secret.txt", 8, "does .dockerignore leave it out?"),
        ("RUN id -u", "RUN false && id -u", 13, "exit code 1"),
        ("USER steps-tester", "USER no-such-user", 12, "no-such-user is not in /etc/passwd"),
        ("USER steps-tester", "VOLUME /data", 12, "this instruction is not known"),
        ("data/in.txt", "data/absent.txt", None, "HEALTHCHECK test -f /opt/steps-test/data/absent.txt"),
    ],
)
def test_the_first_failure_ends_it_with_its_line(old, new, line, message, context):
    (context / "Dockerfile").write_text(DOCKERFILE.replace(old, new))
    done = run_steps(context)
    assert done.returncode == 1
    assert message in done.stderr
    if line is not None:
        assert f"Dockerfile:{line} " in done.stderr
    assert "start" not in done.stdout.splitlines()
    assert list((context.parent / "work").iterdir()) == []


@pytest.mark.usefixtures("overlay")
def test_nothing_is_left_behind_when_it_is_ended(context):
    (context / "Dockerfile").write_text(DOCKERFILE.replace("RUN id -u", "RUN echo sleeping && sleep 60 && id -u"))
    with subprocess.Popen(command(context), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "sleeping\n" in process.stdout
        process.terminate()
        assert process.wait(30) == 143
    assert list((context.parent / "work").iterdir()) == []
