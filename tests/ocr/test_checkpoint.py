import pytest
import torch

from ocr.checkpoint import load_checkpoint


def test_a_file_that_is_no_checkpoint_is_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.ckpt"):
        load_checkpoint(tmp_path / "none.ckpt")
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    with pytest.raises(ValueError, match=r"text\.ckpt: not a readable checkpoint"):
        load_checkpoint(tmp_path / "text.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"other\.ckpt: it has no configuration"):
        load_checkpoint(tmp_path / "other.ckpt")
