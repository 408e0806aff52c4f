from pathlib import Path

import pytest
import torch

from dali_pipelines.memory import Shortage
from ocr.config import TrainConfig
from ocr.errors import OutOfMemory
from ocr.out_of_memory import ExplainShortages, command, explained, inference_remedies, remedy_lines, training_remedies


def changes(batch_size: int, *, in_validation: bool = False, checkpoint: Path | None = None) -> list[str]:
    sizes = {"batch_size": batch_size, "eval_batch_size": batch_size}
    config = TrainConfig.model_validate({"dataloader": sizes})
    return [command(remedy.changes) for remedy in training_remedies(config, checkpoint, in_validation)]


def test_the_batch_is_halved_and_then_the_caches_shrink_too():
    assert changes(16) == ["dataloader.batch_size=8", "dataloader.batch_size=4 performance=constrained"]
    assert changes(3) == ["dataloader.batch_size=1", "dataloader.batch_size=1 performance=constrained"]


def test_in_validation_it_is_that_of_the_validation():
    assert changes(8, in_validation=True)[0] == "dataloader.eval_batch_size=4"


def test_a_batch_of_one_image_leaves_the_caches_and_the_image():
    assert changes(1) == [
        "dataloader.batch_size=1 performance=constrained",
        "dataloader.batch_size=1 performance=constrained pipeline.image_size=480",
    ]


def test_a_checkpoint_is_named_only_if_it_is_there(tmp_path):
    checkpoint = tmp_path / "it's=last.ckpt"
    assert changes(2, checkpoint=checkpoint)[0] == "dataloader.batch_size=1"
    checkpoint.touch()
    quoted = str(checkpoint).replace("'", "\\'")
    assert changes(2, checkpoint=checkpoint)[0] == (
        "dataloader.batch_size=1 'resume='\"'\"'" + quoted.replace("'", "'\"'\"'") + "'\"'\"''"
    )


def test_evaluation_and_prediction_take_a_smaller_batch():
    assert remedy_lines(inference_remedies(8, 640)) == "To run it with half the batch:\n  batch_size=4"
    assert remedy_lines(inference_remedies(1, 640)).endswith("\n  batch_size=1 image_size=480")


def test_the_message_without_advice_still_tells_who_holds_what():
    text = str(explained(Shortage("RAM", "DALI", 5 * 10**6), when="", cache_bytes={"ram": 3 * 10**6}, remedies=()))
    assert text.startswith("RAM ran out: DALI asked for 5 MB, ")
    assert "of that 3 MB caches" in text
    assert "uv run" not in text


def test_on_a_gpu_it_is_told_what_torch_and_dali_hold(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (300 * 10**6, 8_000 * 10**6))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 6_000 * 10**6)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 5_000 * 10**6)
    asked = {
        size: explained(
            Shortage("GPU memory", "torch", size), when="in training, epoch 1", cache_bytes={"gpu": 10**9}, remedies=()
        )
        for size in (800 * 10**6, 2_000 * 10**6)
    }
    assert str(asked[2_000 * 10**6]) == (
        "GPU memory ran out in training, epoch 1: torch asked for 2,000 MB, 300 MB of 8,000 MB were free.\n"
        "  torch: 6,000 MB, of that 1,000 MB caches and 1,000 MB not in use\n"
        "  DALI and other programs: 1,700 MB"
    )
    assert str(asked[800 * 10**6]).endswith(
        "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True before the command may help."
    )


def test_only_shortages_are_explained():
    with pytest.raises(KeyError), ExplainShortages():
        raise KeyError("x")
    with pytest.raises(OutOfMemory, match=r"^RAM ran out before the first step: ") as caught, ExplainShortages():
        bytearray(1 << 60)
    with pytest.raises(OutOfMemory) as again, ExplainShortages():
        raise caught.value
    assert again.value is caught.value
