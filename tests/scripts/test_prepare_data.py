"""The command as a user types it, and its configuration."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from ocr.command_line import compose_config
from ocr.config import PrepareConfig

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = str(ROOT / "scripts" / "prepare_data.py")
EXPERIMENTS = sorted(path.stem for path in (ROOT / "configs/experiment").glob("*.yaml"))


def composed(*overrides: str) -> PrepareConfig:
    return compose_config(PrepareConfig, "prepare_data", overrides)


def test_a_data_set_is_drawn_checked_and_written(run_script, tmp_path):
    overrides = ["data=synthetic", "synthetic.num_train=3", "synthetic.num_val=2", "synthetic.exif_share=1"]
    overrides += ["pipeline.image_size=128", "splits=[train,val]", "output=ready", "hydra.run.dir=run"]
    done = run_script("prepare_data.py", *overrides, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "[INFO]" in line]
    assert str(tmp_path / "run") in lines[0]
    assert str(tmp_path / "ready") in lines[-1]
    assert "train images: 3 encoded" in done.stdout
    assert "val maps: 2 made" in done.stdout
    report = json.loads((tmp_path / "run/report.json").read_text())
    assert report["val"]["images"]["counts"] == {"encoded": 2}
    assert json.loads((tmp_path / "run/audit_val.json").read_text())["num_images"] == 2
    written = {path.relative_to(tmp_path / "ready").as_posix() for path in (tmp_path / "ready").rglob("*.*")}
    assert {"prepared.json", "jsons/train.json", "jsons/val.json"} <= written
    for name in json.loads((tmp_path / "ready/jsons/val.json").read_text())["images"]:
        assert {f"images_val_canonical/{name}", f"images_val_canonical_maps/{name}.npz"} <= written


@pytest.mark.parametrize(
    ("data", "folder"), [("upstage", "empty/images/train"), ("sroie_and_icdar15", "empty/icdar15_words/images/val")]
)
def test_an_input_at_fault_ends_with_a_message(tmp_path, monkeypatch, data, folder):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(sys, "argv", [SCRIPT, f"data={data}", "dataset_base_path=empty", "output=ready"])
    with pytest.raises(SystemExit, match=f"there is no split to prepare: .*{folder}"):
        runpy.run_path(SCRIPT, run_name="__main__")
    assert not (tmp_path / "ready").exists()


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_experiments_give_the_settings_of_their_maps(experiment):
    config = composed(f"experiment={experiment}", "output=ready")
    assert (config.targets.shrink_ratio, config.targets.min_side) == (0.6, 4)
    assert config.pipeline.image_size == (1600 if experiment == "receipts" else 1280)
    assert not hasattr(config, "trainer")


@pytest.mark.parametrize("data", sorted({path.stem for path in (ROOT / "configs/data").glob("*.yaml")} - {"auto"}))
def test_data_sets_compose(data):
    config = composed(f"data={data}", "output=ready")
    assert all(config.datasets.has_split(name) for name in ("train", "val", "test"))
    assert config.draw_synthetic == (data == "synthetic")
    assert config.targets.map_stride == (2 if data == "synthetic" else 1)


def test_output_has_to_be_given():
    with pytest.raises(SystemExit, match="output=FOLDER is needed"):
        composed()


@pytest.mark.parametrize(
    ("override", "named"), [("splits=[all]", "splits"), ("splits=[]", "splits"), ("num_workers=0", "num_workers")]
)
def test_wrong_values_are_named(override, named):
    with pytest.raises(SystemExit, match=named):
        composed("output=ready", override)


def test_a_key_that_does_not_exist_is_refused():
    with pytest.raises(Exception, match="canonicle"):
        composed("output=ready", "canonicle=false")
