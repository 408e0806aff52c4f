"""docker/install.sh keeps the packages of its base image. `python` is a stand-in: `make image-proof` installs for real."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PYTHON = """\
#!/bin/bash
# Lists the packages in installed.txt; `uv pip install` adds the lines of new.txt. Notes its arguments.
echo "$*" >> "${STATE}/calls.txt"
case "$*" in
    *"pip list"*) cat "${STATE}/installed.txt" ;;
    *"uv pip install"*) cat "${STATE}/new.txt" >> "${STATE}/installed.txt" ;;
esac
"""


@pytest.fixture
def state(tmp_path) -> Path:
    """A checkout with the script, an interpreter, and the packages of a base image."""
    (tmp_path / "docker").mkdir()
    shutil.copy(ROOT / "docker" / "install.sh", tmp_path / "docker")
    (tmp_path / "docker/constraints.txt").write_text("# versions\npillow==11.0.0\ntorch==2.15.0\ntorch-extra==1.0\n")
    (tmp_path / "pyproject.toml").write_text('"nvidia-dali-cuda120>=2.4,<2.5"\n')
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "installed.txt").write_text("pillow==10.4.0\ntorch==2.15.0a0+nv26\n")
    (tmp_path / "new.txt").write_text("timm==1.0\n")
    return tmp_path


def install(state: Path, step: str, **env: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": f"{state}:{os.environ['PATH']}", "STATE": str(state)} | env
    command = [state / "docker" / "install.sh", step]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_the_versions_of_the_base_image_are_constraints(state):
    done = install(state, "dependencies")
    assert done.returncode == 0, done.stderr
    assert (state / "base_packages.txt").read_text() == "torch==2.15.0a0+nv26\n"
    assert "--constraints base_packages.txt --constraints constraints.txt -r" in (state / "calls.txt").read_text()
    assert (state / "constraints.txt").read_text() == "pillow==11.0.0\ntorch-extra==1.0\n"


def test_all_versions_are_constraints_where_the_base_image_has_no_torch(state):
    (state / "installed.txt").write_text("pip==26.0\n")
    assert install(state, "dependencies").returncode == 0
    assert (state / "constraints.txt").read_text() == "pillow==11.0.0\ntorch==2.15.0\ntorch-extra==1.0\n"


@pytest.mark.parametrize("step", ["dependencies", "project"])
def test_a_changed_package_of_the_base_image_ends_the_build(step, state):
    (state / "base_packages.txt").write_text("torch==2.15.0a0+nv26\n")
    (state / "new.txt").write_text("triton==3.9.0\n")
    done = install(state, step)
    assert done.returncode == 1
    assert "the installation changed packages of the base image" in done.stderr
    assert "> triton==3.9.0" in done.stderr


def test_a_base_image_without_torch_may_get_one(state):
    (state / "installed.txt").write_text("pip==26.0\n")
    (state / "new.txt").write_text("torch==2.15.0\n")
    assert install(state, "dependencies").returncode == 0
    assert install(state, "project").returncode == 0


@pytest.mark.parametrize(("cuda", "package"), [("", "nvidia-dali-cuda120"), ("13.4.1", "nvidia-dali-cuda130")])
def test_cuda_of_the_base_image_selects_the_dali_package(cuda, package, state):
    install(state, "dependencies", CUDA_VERSION=cuda)
    assert (state / "pyproject.toml").read_text() == f'"{package}>=2.4,<2.5"\n'


def test_the_cpu_build_of_torch_comes_from_its_own_index(state):
    install(state, "dependencies", TORCH_BACKEND="cpu")
    assert "--torch-backend=cpu" in (state / "calls.txt").read_text()


def test_an_unknown_step_prints_the_usage(state):
    done = install(state, "everything")
    assert (done.returncode, done.stderr) == (2, "usage: docker/install.sh dependencies|project\n")
