import threading
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from ocr.errors import StorageError
from ocr.training.checkpoint_files import CheckpointFiles, check_room, checkpoint_bytes, on_host
from tests.full_disk import largest_file


def test_a_saved_state_is_that_of_the_moment_of_the_call(tmp_path):
    files, weights = CheckpointFiles(), torch.zeros(1000, 1000)
    files.save_checkpoint({"weights": weights}, tmp_path / "a.ckpt")
    weights += 1
    files.finish()
    assert not torch.load(tmp_path / "a.ckpt")["weights"].any()
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"]


def test_the_newest_of_two_saves_stays(tmp_path):
    files = CheckpointFiles()
    for number in range(3):
        files.save_checkpoint({"number": number}, tmp_path / "a.ckpt")
    assert files.load_checkpoint(tmp_path / "a.ckpt")["number"] == 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("checkpoint-writer")]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_full_disk_is_named_and_leaves_the_earlier_checkpoint(tmp_path, share):
    files, path = CheckpointFiles(), tmp_path / "checkpoints/last.ckpt"
    state = {f"weight {number}": torch.rand(20_000) for number in range(10)}
    files.save_checkpoint(state, path)
    files.finish()
    before = path.read_bytes()
    with largest_file(int(share * len(before))):
        files.save_checkpoint({**state, "more": 1}, path)
        with pytest.raises(
            StorageError, match=r"last\.ckpt: cannot be written: File too large .*MB are free.*unchanged"
        ):
            files.finish()
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


def test_an_error_of_a_write_comes_up_at_the_next_save(tmp_path):
    (tmp_path / "file").touch()
    files = CheckpointFiles()
    files.save_checkpoint({}, tmp_path / "file" / "a.ckpt")
    with pytest.raises(StorageError, match="no file of that name was written"):
        files.save_checkpoint({}, tmp_path / "file" / "a.ckpt")


def test_a_copy_on_the_host_keeps_the_metadata_of_a_module(tmp_path):
    state = torch.nn.BatchNorm2d(3).state_dict()
    copied = on_host({"state": state, "list": [1, (torch.ones(2),)]})
    assert isinstance(copied["state"], OrderedDict)
    assert copied["state"]._metadata == state._metadata
    assert copied["state"]["weight"].data_ptr() != state["weight"].data_ptr()


def test_the_predicted_size_is_that_of_the_file(tmp_path):
    model = torch.nn.Sequential(torch.nn.Conv2d(64, 64, 3), torch.nn.BatchNorm2d(64))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.rand(1, 64, 8, 8)).sum().backward()
    optimizer.step()
    files = CheckpointFiles()
    files.save_checkpoint({"state_dict": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "a.ckpt")
    files.finish()
    assert checkpoint_bytes(model, "adamw", averaged=False) == pytest.approx(
        (tmp_path / "a.ckpt").stat().st_size, rel=0.05
    )


def test_too_little_room_for_two_checkpoints_is_said_with_both_numbers(tmp_path: Path):
    check_room(tmp_path, 1000)
    with pytest.raises(
        StorageError, match=r"MB are free, but this run needs about 2,000,000,000,000 MB .*hydra\.run\.dir"
    ):
        check_room(tmp_path, 10**18)
