"""Files of weights give back what was written, and float16 is refused where it would lose a weight."""

from pathlib import Path

import pytest
import torch

from ocr.errors import InputError
from ocr.weights_file import read_weights_file, write_weights_file


def test_kernels_may_be_stored_in_float16_and_vectors_keep_their_type(tmp_path: Path) -> None:
    state = {
        "kernel": torch.rand(3, 4).t(),  # not contiguous
        "variance": torch.tensor([1e6, 1e-9]),  # outside the range of float16
        "count": torch.tensor([[70_000]]),
    }
    for float16 in (False, True):
        write_weights_file(tmp_path / "a.safetensors", state, {"card": "한글"}, float16=float16)
        text, found = read_weights_file(tmp_path / "a.safetensors", "checkpoint")
        assert text == {"card": "한글"}
        assert torch.equal(found["kernel"], state["kernel"].half() if float16 else state["kernel"])
        assert all(torch.equal(found[name], state[name]) for name in ("variance", "count"))


def test_a_kernel_outside_the_range_of_float16_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    state = {"a": torch.ones(2, 2), "b": torch.full((2, 2), 70_000.0)}
    with pytest.raises(
        InputError, match=r"precision=float16: 1 tensors lie outside the range of float16, first b; use"
    ):
        write_weights_file(tmp_path / "a.safetensors", state, {}, float16=True)
    assert not list(tmp_path.iterdir())
