"""Pictures are small, drawn in a thread, and no reason to end a run."""

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
        save(*arguments)

    monkeypatch.setattr(pictures, "save_picture", noting_thread)
    config = tiny_run("trainer.max_epochs=2", "logger.num_pictures=3", "logger.tensorboard=true")
    names = sorted(json.loads(Path(str(config.datasets.val_dataset.config.annotation_path)).read_text())["images"])[:3]
    (tmp_path / "pictures" / names[0]).mkdir(parents=True)  # in the place of a picture
    with caplog.at_level(logging.WARNING):
        summary = train(config, tmp_path)
    drawn = [path for path in (tmp_path / "pictures").iterdir() if path.is_file()]
    assert len(drawn) == 2
    assert {max(Image.open(path).size) for path in drawn} == {64}
    warnings = [record.message.split(":")[0] for record in caplog.records if record.name == pictures.__name__]
    assert warnings == [f"no picture of {names[0]}"] * 2
    assert summary["pictures_seconds"] > 0
    assert json.loads((tmp_path / "summary.json").read_text())["pictures_seconds"] == summary["pictures_seconds"]
    assert len(threads) == 1
    assert threading.main_thread() not in threads
    assert not any(thread.is_alive() for thread in threads)
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert len(board.Tags()["images"]) == 2
    for tag in board.Tags()["images"]:
        events = board.Images(tag)
        assert [max(event.width, event.height) for event in events] == [64, 64], "one picture for each validation"
