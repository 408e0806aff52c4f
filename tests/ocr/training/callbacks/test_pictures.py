"""Pictures are small, of the worst images, drawn in a thread, and no reason to end a run."""

import json
import logging
import threading
from pathlib import Path

from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ocr.training.callbacks import pictures
from ocr.training.fit import train


def test_a_run_draws_bounded_pictures_in_a_thread_and_survives_one_that_fails(tiny_run, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(pictures, "LONGEST_SIDE", 64)
    threads = set()
    save = pictures.save_picture

    def noting_thread(*arguments):
        threads.add(threading.current_thread())
        return save(*arguments)

    monkeypatch.setattr(pictures, "save_picture", noting_thread)
    config = tiny_run("trainer.max_epochs=2", "logger.num_pictures=3", "logger.tensorboard=true")
    annotated = json.loads(Path(str(config.datasets.val_dataset.config.annotation_path)).read_text())["images"]
    # A network of two tiny epochs finds nothing, so the worst images are those with the most words.
    worst = sorted(annotated, key=lambda name: -len(annotated[name]["words"]))[:3]
    (tmp_path / "pictures" / worst[0]).mkdir(parents=True)  # in the place of a picture
    with caplog.at_level(logging.WARNING):
        summary = train(config, tmp_path)
    drawn = {path.name for path in (tmp_path / "pictures").iterdir() if path.is_file()}
    assert drawn == set(worst[1:])
    for name in drawn:
        with Image.open(tmp_path / "pictures" / name) as picture:
            assert picture.height == 64 + 44, "the image, a line of scores and a legend"
    warnings = [record.message.split(":")[0] for record in caplog.records if record.name == pictures.__name__]
    assert warnings == [f"no picture of {worst[0]}"] * 2
    assert summary["pictures_seconds"] > 0
    assert json.loads((tmp_path / "summary.json").read_text())["pictures_seconds"] == summary["pictures_seconds"]
    assert len(threads) == 1
    assert threading.main_thread() not in threads
    assert not any(thread.is_alive() for thread in threads)
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    images = board.Tags()["images"]
    assert sorted(images) == ["train/sample_1", "train/sample_2", "val/worst_1", "val/worst_2"]
    assert [event.height for event in board.Images("val/worst_1")] == [64 + 44] * 2, "one picture for each validation"
    assert [event.width for event in board.Images("train/sample_1")] == [5 * 360 + 4 * 8], (
        "the input and four maps, once"
    )


def test_a_run_logs_its_settings_its_speed_and_its_wait_for_data(tiny_run, tmp_path):
    train(tiny_run("logger.tensorboard=true", "optimizer.lr=0.002"), tmp_path)
    board = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"tensors": 0})
    board.Reload()
    for name in ("images_per_second", "data_wait_seconds", "data_wait_share"):
        events = board.Scalars(f"train/{name}")
        assert len(events) == 2, "one for each epoch"
        assert all(event.value >= 0 for event in events)
    settings = board.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"optimizer.lr" in settings
    assert b"pipeline.augmentation.crop_size" in settings
    header = (tmp_path / "metrics.csv").read_text().partition("\n")[0]
    assert "data_wait" not in header, "metrics.csv is the same in each run of a seed"
