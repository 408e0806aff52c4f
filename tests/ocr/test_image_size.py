"""pipeline.image_size=auto: the size of the input follows from the heights of the words."""

import logging
import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from dali_pipelines.config import AUTO, PipelineConfig
from ocr.config import DatasetsConfig, PrepareConfig, TrainConfig, described_problems
from ocr.datasets.data_checks import Measures
from ocr.datasets.plan import SamplePlanner
from ocr.device import largest_image_size
from ocr.errors import InputError
from ocr.image_size import with_chosen_size, with_size_for_words
from ocr.preparation.prepare import prepare_data
from ocr.splits import audited_split
from ocr.targets.config import TargetConfig
from tests.splits import splits

CPU = torch.device("cpu")


def of_drawn(drawn, **pipeline) -> TrainConfig:
    return TrainConfig.model_validate({"datasets": splits(drawn), "pipeline": pipeline})


def test_auto_is_the_smallest_size_at_which_95_percent_of_the_words_are_tall_enough(drawn):
    config = of_drawn(drawn, image_size="auto")
    chosen = with_chosen_size(config).pipeline.image_size
    manifest, _ = audited_split(config.datasets.split("train"), config, None)
    measures = Measures.of(manifest)
    heights = measures.heights_of_longest[measures.legible]
    assert (heights * chosen >= 8 - 1e-3).mean() >= 0.95
    assert (heights * (chosen - 32) >= 8).mean() < 0.95
    assert chosen % 32 == 0


def test_a_smaller_min_side_does_not_make_the_images_smaller(drawn):
    config = of_drawn(drawn, image_size="auto")
    smaller = config.model_copy(update={"targets": TargetConfig(min_side=4)})
    assert with_chosen_size(smaller).pipeline.image_size == with_chosen_size(config).pipeline.image_size


def test_a_given_size_stays_and_no_data_are_read():
    config = TrainConfig.model_validate({"pipeline": {"image_size": 320}})
    assert with_chosen_size(config) is config


def test_memory_bounds_the_size_and_the_log_says_what_is_lost(drawn, caplog):
    config = of_drawn(drawn, image_size="auto")
    manifest, _ = audited_split(config.datasets.split("train"), config, None)
    with caplog.at_level("INFO"):
        chosen = with_size_for_words(config.pipeline, manifest, 500.0, 10_000, CPU)
    assert chosen.image_size == 640  # never less than the default
    assert "640, which is as large as the memory allows; 100.0 % of the training words are below 500 px" in caplog.text
    assert "pipeline.augmentation.crop_size=640" in caplog.text


def test_the_bound_counts_training_batches_only_where_they_are_as_large():
    whole, cropped = PipelineConfig(), PipelineConfig.model_validate({"augmentation": {"crop_size": 320}})
    memory = 16 << 30
    assert largest_image_size(memory, cropped, 8, "cpu") == math.isqrt((memory // 8) // 1024) // 32 * 32
    assert largest_image_size(memory, whole, 8, "cpu") == math.isqrt((memory // 2) // (4096 * 8)) // 32 * 32


def test_a_loader_refuses_a_size_that_is_still_to_be_chosen():
    with pytest.raises(InputError, match="give this command that number"):
        SamplePlanner(PipelineConfig(image_size="auto"), training=False, seed=0)


@pytest.mark.parametrize("value", [AUTO, 16, -32, 100, "large"])
def test_auto_is_a_word_and_other_sizes_are_refused(value):
    expected = f"pipeline.image_size: expected auto, or a multiple of 32 that is at least 32 (found {value!r})"
    with pytest.raises(ValidationError) as error:
        TrainConfig.model_validate({"pipeline": {"image_size": value}})
    assert described_problems(error.value) == [expected]


def test_auto_is_written_as_it_is_read():
    config = PipelineConfig(image_size="auto")
    assert config.image_size == AUTO
    assert config.model_dump()["image_size"] == config.model_dump(mode="json")["image_size"] == "auto"
    assert PipelineConfig.model_validate_json(config.model_dump_json()) == config


def test_prepared_maps_have_the_size_that_training_chooses(drawn, tmp_path, caplog):
    config = of_drawn(drawn, image_size="auto")
    settings = {"output": str(tmp_path / "out"), "pipeline": {"image_size": "auto"}, "datasets": config.datasets}
    with caplog.at_level(logging.INFO):
        prepare_data(PrepareConfig.model_validate(settings), tmp_path)
    chosen = with_chosen_size(config).pipeline.image_size
    assert f"runs with pipeline.image_size={chosen}" in caplog.text
    maps = next((tmp_path / "out").rglob("*.npz"))
    with np.load(maps) as arrays:
        assert arrays["prob_map"].shape == (chosen, chosen)


def test_prepare_without_the_training_split_wants_a_number(drawn, tmp_path):
    splits = DatasetsConfig.model_validate({"val_dataset": of_drawn(drawn).datasets.val_dataset.model_dump()})
    settings = {"output": str(tmp_path / "out"), "pipeline": {"image_size": "auto"}, "datasets": splits}
    with pytest.raises(InputError, match="add train to splits"):
        prepare_data(PrepareConfig.model_validate(settings), tmp_path)
