"""What the command line refuses before anything is run."""

import sys

import pytest

from benchmarks.gpu_check.__main__ import _parse_arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--minutes", "0"], "--minutes 0: more than 0 are needed"),
        (["--minutes", "nan"], "--minutes nan: more than 0 are needed"),
        (["--output", "full"], "--output full: is there already; name a new or an empty folder"),
        (["--output", "full/file"], "--output full/file: is there already"),
        (["--data", "nowhere"], "--data nowhere: there is no jsons/train.json in it"),
        (["--data", "full"], "--data full: there is no jsons/val.json in it"),
        (["--receipts"], "--receipts needs --data FOLDER"),
        (["--only", "decode,decoed"], "--only decoed: no such step; there are environment, gpu_tests, decode"),
    ],
)
def test_wrong_arguments_are_named(arguments, message, tmp_path, monkeypatch, capsys):
    (tmp_path / "full" / "jsons").mkdir(parents=True)
    (tmp_path / "full" / "jsons" / "train.json").touch()
    (tmp_path / "full" / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["gpu_check", *arguments])
    with pytest.raises(SystemExit) as ended:
        _parse_arguments()
    assert ended.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_an_empty_folder_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--cpu", "--only", "decode,,targets", "--output", str(tmp_path)])
    settings = _parse_arguments()
    assert (settings.output, settings.only) == (str(tmp_path), ("decode", "targets"))
