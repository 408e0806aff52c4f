"""The best checkpoint of a resumed run."""

import lightning
import pytest
import torch

from ocr.training.callbacks.checkpoints import BestCheckpoint


@pytest.fixture
def saved(tmp_path):
    """The state of a run whose best val/hmean is 0.9."""
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "best.ckpt").write_bytes(b"best so far")
    best = BestCheckpoint(folder, None)
    best.best_model_path, best.best_model_score = str(folder / "best.ckpt"), torch.tensor(0.9)
    best.best_k_models = {best.best_model_path: best.best_model_score}
    best.kth_best_model_path = best.best_model_path
    return best.state_dict()


@pytest.mark.parametrize("same_folder", [True, False])
def test_the_best_checkpoint_is_kept_when_the_folder_of_the_run_was_moved(saved, tmp_path, same_folder):
    folder = (tmp_path / "run").rename(tmp_path / "moved") / "checkpoints"
    goes_on_in = folder if same_folder else tmp_path / "new" / "checkpoints"
    goes_on_in.mkdir(parents=True, exist_ok=True)
    best = BestCheckpoint(goes_on_in, folder / "last.ckpt")
    best.load_state_dict(saved)
    assert best.best_model_path == str(goes_on_in / "best.ckpt")
    assert (goes_on_in / "best.ckpt").read_bytes() == b"best so far"
    trainer = lightning.Trainer(accelerator="cpu", logger=False)
    assert not best.check_monitor_top_k(trainer, torch.tensor(0.8))
    assert best.check_monitor_top_k(trainer, torch.tensor(0.95))


def test_a_missing_best_checkpoint_is_told(saved, tmp_path, caplog):
    (tmp_path / "run" / "checkpoints" / "best.ckpt").unlink()
    best = BestCheckpoint(tmp_path / "new", tmp_path / "copied" / "last.ckpt")
    best.load_state_dict(saved)
    assert best.best_model_score is None
    assert "the best checkpoint so far, with val/hmean 0.9000, is neither" in caplog.text
    assert str(tmp_path / "copied" / "best.ckpt") in caplog.text
