import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser

from ocr.command_line import prepare_hydra
from ocr.command_line.path_overrides import with_literal_paths
from ocr.config import TrainConfig
from ocr.memory.remedies import command_with, inference_remedies, remedy_text, training_remedies

CONFIGS = Path(__file__).resolve().parents[3] / "configs"


def commands(
    batch_size: int, *, in_validation: bool = False, checkpoint: Path | None = None, crop_size: int | None = None
) -> list[str]:
    sizes = {"batch_size": batch_size, "eval_batch_size": batch_size}
    config = TrainConfig.model_validate(
        {"dataloader": sizes, "pipeline": {"augmentation": {"crop_size": crop_size}}},
    )
    return [command_with(remedy.overrides) for remedy in training_remedies(config, checkpoint, in_validation)]


@contextmanager
def started_with(*overrides: str) -> Iterator[None]:
    """As within scripts/train.py."""
    prepare_hydra()
    with initialize_config_dir(str(CONFIGS), version_base="1.3", job_name="train"):
        composed = compose("train", list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(composed)
    try:
        yield
    finally:
        HydraConfig.instance().cfg = None


def test_the_batch_is_halved_first_and_then_the_caches_shrink_too():
    assert commands(16) == ["dataloader.batch_size=8", "dataloader.batch_size=4 performance=constrained"]
    assert commands(3) == ["dataloader.batch_size=1", "dataloader.batch_size=1 performance=constrained"]


def test_in_validation_the_evaluation_batch_is_halved():
    assert commands(8, in_validation=True)[0] == "dataloader.eval_batch_size=4"


def test_with_one_image_per_batch_caches_and_images_shrink():
    assert commands(1) == [
        "dataloader.batch_size=1 performance=constrained",
        "dataloader.batch_size=1 performance=constrained pipeline.image_size=480",
    ]


def test_in_training_it_is_the_crop_that_shrinks():
    assert commands(1, crop_size=640)[1].endswith(" pipeline.augmentation.crop_size=480")
    assert commands(1, crop_size=640, in_validation=True)[1].endswith(" pipeline.image_size=480")


@pytest.mark.parametrize("lightning", [(), ("hydra.job.name=train_ddp_process_1", "hydra.output_subdir=null")])
def test_given_overrides_stay_and_changed_ones_appear_once(lightning):
    given = ("data=upstage", "dataset_base_path=two words", "++dataloader.batch_size=8", "performance=max")
    with started_with(*given, *lightning):
        half, less = commands(8)
    assert (
        half
        == "uv run scripts/train.py data=upstage 'dataset_base_path=two words' performance=max dataloader.batch_size=4"
    )
    assert less.endswith("'dataset_base_path=two words' dataloader.batch_size=2 performance=constrained")


@pytest.mark.parametrize("preset", ["baseline", "constrained"])
def test_a_preset_with_small_caches_is_not_replaced(preset):
    with started_with(f"performance={preset}"):
        start = f"uv run scripts/train.py performance={preset} dataloader.batch_size"
        assert commands(8) == [f"{start}=4", f"{start}=2"]
        assert commands(2) == [f"{start}=1"]
        assert commands(1) == [f"{start}=1 pipeline.image_size=480"]


@pytest.mark.parametrize(
    "folder", ["plain", "it's", "two words", "a,b=c", "\u00fcn\u00ef", "back\\slash", "both\\'", "{x}"]
)
def test_the_path_of_a_checkpoint_survives_shell_and_hydra(tmp_path, folder):
    checkpoint = tmp_path / folder / "last.ckpt"
    assert commands(2, checkpoint=checkpoint)[0] == "dataloader.batch_size=1"
    checkpoint.parent.mkdir()
    checkpoint.touch()
    for line in commands(2, checkpoint=checkpoint):
        (argument,) = with_literal_paths(shlex.split(line)[-1:], [TrainConfig])
        given = OverridesParser.create().parse_override(argument)
        assert (given.key_or_group, given.value()) == ("resume", str(checkpoint))


def test_evaluation_and_prediction_get_a_smaller_batch():
    assert remedy_text(inference_remedies(8, 640)) == "Try half the batch size:\n  batch_size=4"
    assert remedy_text(inference_remedies(1, 640)).endswith("\n  batch_size=1 image_size=480")
