"""The workflows of continuous integration, in step with pyproject.toml and the Makefile."""

from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


def workflow(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text())


def test_the_oldest_and_the_newest_supported_python_are_tested(python_versions, pyproject):
    matrix = workflow("ci.yml")["jobs"]["check"]["strategy"]["matrix"]["include"]
    tested = [entry["python"] for entry in matrix]
    assert (tested[0], tested[-1]) == (python_versions[0], python_versions[-1])
    assert set(tested) <= set(python_versions)
    assert f'requires-python = ">={tested[0]}"' in pyproject
    assert sorted({entry["target"] for entry in matrix}) == ["check", "test"]


@pytest.mark.parametrize("name", ["ci.yml", "images.yml"])
def test_workflows_only_read_and_use_no_secret(name):
    assert workflow(name)["permissions"] == {"contents": "read"}
    assert "secrets." not in (ROOT / ".github" / "workflows" / name).read_text()
    actions = [step["uses"] for job in workflow(name)["jobs"].values() for step in job["steps"] if "uses" in step]
    assert actions
    assert not [action for action in actions if "@v" not in action]


def test_no_image_is_pushed():
    steps = [step for job in workflow("images.yml")["jobs"].values() for step in job["steps"]]
    builds = [step["with"] for step in steps if step.get("uses", "").startswith("docker/build-push-action")]
    assert {build["file"] for build in builds} == {"docker/Dockerfile", "docker/Dockerfile.cpu"}
    assert not any(build["push"] for build in builds)
