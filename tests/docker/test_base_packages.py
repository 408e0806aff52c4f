"""The check that what the base image brought is unchanged, on a package installed into a folder."""

import json
import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def module(script):
    return script("base_packages")


def install(site: Path, name: str, version: str, code: str) -> Path:
    """A package as an installer leaves it."""
    (site / name).mkdir(parents=True)
    (site / name / "__init__.py").write_text(code)
    info = site / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "RECORD").write_text(f"{name}/__init__.py,,\n{info.name}/METADATA,,\n{info.name}/RECORD,,\n")
    return info


@pytest.fixture
def site(tmp_path, monkeypatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    install(tmp_path / "site", "basenet", "2.15.0a0+nv26", "x = 1\n")
    return tmp_path / "site"


def differences(module, site: Path, change) -> list[str]:
    before = module.record(("basenet",), ())
    change(site)
    return module.differences(json.loads(json.dumps(before)), module.record(("basenet",), ()))


def test_nothing_changed_is_no_difference(module, site):
    def compile_bytecode(site):
        (site / "basenet" / "__init__.cpython-312.pyc").write_bytes(b"compiled")

    assert differences(module, site, compile_bytecode) == []


def test_other_bytes_in_a_file_are_a_difference(module, site):
    (line,) = differences(module, site, lambda site: (site / "basenet" / "__init__.py").write_text("x = 2\n"))
    assert line.startswith("basenet: sha256 was ")


def test_a_missing_file_is_a_difference(module, site):
    (line,) = differences(module, site, lambda site: (site / "basenet" / "__init__.py").unlink())
    assert line.startswith("basenet: sha256 was ")


def test_another_version_is_a_difference(module, site):
    def replace(site):
        shutil.rmtree(site)
        install(site, "basenet", "2.15.0", "x = 1\n")

    lines = differences(module, site, replace)
    assert lines[0] == "basenet: version was 2.15.0a0+nv26, is 2.15.0"


def test_another_place_is_a_difference(module, site, tmp_path, monkeypatch):
    def shadow(_):
        install(tmp_path / "home", "basenet", "2.15.0a0+nv26", "x = 1\n")
        monkeypatch.syspath_prepend(str(tmp_path / "home"))

    assert differences(module, site, shadow) == [f"basenet: place was {site}, is {tmp_path / 'home'}"]


def test_a_removed_package_is_a_difference(module, site):
    assert differences(module, site, shutil.rmtree) == ["basenet 2.15.0a0+nv26 is gone"]


def test_check_ends_with_the_names_and_pins_hold_local_versions(module, site, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "record", lambda needed=(), real=module.record: real(("basenet",), needed))
    file = tmp_path / "recorded.json"
    module.main(["record", str(file)])
    module.main(["pins", str(file)])
    module.main(["check", str(file)])
    assert capsys.readouterr().out == "basenet==2.15.0a0+nv26\nunchanged: basenet 2.15.0a0+nv26\n"
    (site / "basenet" / "__init__.py").write_text("x = 2\n")
    with pytest.raises(SystemExit, match="changed what the base image brought:\n  basenet: sha256"):
        module.main(["check", str(file)])


def test_a_base_without_torch_is_refused(module):
    with pytest.raises(SystemExit, match="the base image has no not-there; an NGC PyTorch image is expected"):
        module.record(("not-there",), ("not-there",))
