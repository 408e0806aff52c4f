import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser

from dali_pipelines.allocation_errors import FailedAllocation
from ocr.command_line import prepare
from ocr.config import TrainConfig
from ocr.errors import OutOfMemory
from ocr.memory.out_of_memory import (
    ExplainShortages,
    command,
    explained,
    inference_remedies,
    remedy_lines,
    training_remedies,
)

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def changes(
    batch_size: int, *, in_validation: bool = False, checkpoint: Path | None = None, crop_size: int | None = None
) -> list[str]:
    sizes = {"batch_size": batch_size, "eval_batch_size": batch_size}
    config = TrainConfig.model_validate(
        {"dataloader": sizes, "pipeline": {"augmentation": {"crop_size": crop_size}}},
    )
    return [command(remedy.changes) for remedy in training_remedies(config, checkpoint, in_validation)]


@contextmanager
def started_with(*overrides: str) -> Iterator[None]:
    """As within scripts/train.py."""
    prepare()
    with initialize_config_dir(str(CONFIGS), version_base="1.3", job_name="train"):
        composed = compose("train", list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(composed)
    try:
        yield
    finally:
        HydraConfig.instance().cfg = None


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


def test_in_training_the_crop_is_what_counts():
    assert changes(1, crop_size=640)[1].endswith(" pipeline.augmentation.crop_size=480")
    assert changes(1, crop_size=640, in_validation=True)[1].endswith(" pipeline.image_size=480")


@pytest.mark.parametrize("lightning", [(), ("hydra.job.name=train_ddp_process_1", "hydra.output_subdir=null")])
def test_what_was_given_stays_and_what_is_changed_stands_once(lightning):
    given = ("data=upstage", "dataset_base_path=two words", "++dataloader.batch_size=8", "performance=max")
    with started_with(*given, *lightning):
        half, less = changes(8)
    assert (
        half
        == "uv run scripts/train.py data=upstage 'dataset_base_path=two words' performance=max dataloader.batch_size=4"
    )
    assert less.endswith("'dataset_base_path=two words' dataloader.batch_size=2 performance=constrained")


@pytest.mark.parametrize("preset", ["baseline", "constrained"])
def test_a_preset_that_keeps_little_already_is_not_exchanged(preset):
    with started_with(f"performance={preset}"):
        start = f"uv run scripts/train.py performance={preset} dataloader.batch_size"
        assert changes(8) == [f"{start}=4", f"{start}=2"]
        assert changes(2) == [f"{start}=1"]
        assert changes(1) == [f"{start}=1 pipeline.image_size=480"]


@pytest.mark.parametrize(
    "folder", ["plain", "it's", "two words", "a,b=c", "\u00fcn\u00ef", "back\\slash", "both\\'", "{x}"]
)
def test_a_checkpoint_is_named_so_that_shell_and_hydra_read_it(tmp_path, folder):
    checkpoint = tmp_path / folder / "last.ckpt"
    assert changes(2, checkpoint=checkpoint)[0] == "dataloader.batch_size=1"
    checkpoint.parent.mkdir()
    checkpoint.touch()
    for line in changes(2, checkpoint=checkpoint):
        given = OverridesParser.create().parse_override(shlex.split(line)[-1])
        assert (given.key_or_group, given.value()) == ("resume", str(checkpoint))


def test_evaluation_and_prediction_take_a_smaller_batch():
    assert remedy_lines(inference_remedies(8, 640)) == "To run it with half the batch:\n  batch_size=4"
    assert remedy_lines(inference_remedies(1, 640)).endswith("\n  batch_size=1 image_size=480")


def test_the_message_without_advice_still_tells_who_holds_what():
    text = str(
        explained(FailedAllocation("RAM", "DALI", 5 * 10**6), when="", cache_bytes={"ram": 3 * 10**6}, remedies=())
    )
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
            FailedAllocation("GPU memory", "torch", size),
            when="in training, epoch 1",
            cache_bytes={"gpu": 10**9},
            remedies=(),
        )
        for size in (800 * 10**6, 2_000 * 10**6)
    }
    assert str(asked[2_000 * 10**6]) == (
        "GPU memory ran out in training, epoch 1: torch asked for 2,000 MB, 300 MB of 8,000 MB were free.\n"
        "  torch: 6,000 MB, of that 1,000 MB caches and 1,000 MB not in use\n"
        "  DALI, CUDA itself and other programs: 1,700 MB"
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
