"""What the images install, against pyproject.toml: one source of names and bounds."""

from pathlib import Path

import pytest

PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


@pytest.fixture(scope="module")
def module(script):
    return script("requirements")


def test_cuda_12_gives_the_dependencies_as_they_stand(module, project):
    assert module.requirements(PYPROJECT, "12") == sorted(project["dependencies"])


def test_cuda_13_changes_the_name_of_dali_and_not_its_bounds(module, project):
    (dali,) = [line for line in project["dependencies"] if line.startswith("nvidia-dali-")]
    bounds = dali.removeprefix("nvidia-dali-cuda120")
    lines = module.requirements(PYPROJECT, "13.4.1")
    assert [line for line in lines if "nvidia-dali" in line] == [f"nvidia-dali-cuda130{bounds}"]
    assert len(lines) == len(project["dependencies"])


def test_what_the_base_image_has_is_left_out_of_dependencies_and_extras(module, project):
    lines = module.requirements(PYPROJECT, "13", ["bench", "s3"], ["torch", "torchvision"])
    names = [module.name_of(line) for line in lines]
    assert "torch" not in names
    assert "torchvision" not in names
    assert {"torchmetrics", "spdl", "s3fs"} <= set(names)
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("",), "CUDA version ''"),
        (("11.8",), "expected one of 12, 13"),
        (("13", ["bensh"]), "has no extra bensh; found wandb"),
        (("13", [], ["torchvision"]), "requires no torchvision"),  # without the extra bench nothing asks for it
    ],
)
def test_a_wrong_argument_is_named(arguments, message, module):
    with pytest.raises(SystemExit, match=message):
        module.requirements(PYPROJECT, *arguments)


def test_the_command_prints_one_a_line(module, capsys):
    module.main(["--cuda", "13", "--extra", "webdataset", "--without", "torch"])
    lines = capsys.readouterr().out.splitlines()
    assert lines == module.requirements(PYPROJECT, "13", ["webdataset"], ["torch"])
