"""The quick way of the tests to a configuration gives that of Hydra."""

import pytest
from omegaconf.errors import ConfigAttributeError

from ocr.command_line import compose_config
from ocr.config import EvaluateConfig, TrainConfig
from tests.composing import quickly_composed


@pytest.mark.parametrize(
    "overrides",
    [
        ["dataset_base_path=/data/a b", "resume='/runs/a=b (1).ckpt'"],
        ["trainer.max_time=00:00:00:01", "performance=max", "trainer.precision=32-true", "performance=baseline"],
        ["datasets.val_dataset.config=[{image_path:/a,annotation_path:/b},{image_path:/c,annotation_path:/d}]"],
        ["data=[upstage,icdar]", "dataset_base_path=[/a,/b]", "targets.shrink_ratio=0.6", "performance=max"],
    ],
)
def test_values_and_choices_give_the_configuration_of_hydra(overrides):
    given = ["data=upstage", "model.backbone.weights=null", "optimizer.lr=1e-9", *overrides]
    for _ in range(2):  # the second time, the choices are composed already
        assert quickly_composed(TrainConfig, "train", given) == compose_config(TrainConfig, "train", given)


def test_a_command_has_its_own_keys():
    given = ["checkpoint=a.ckpt", "split=val"]
    assert quickly_composed(EvaluateConfig, "evaluate", given) == compose_config(EvaluateConfig, "evaluate", given)
    with pytest.raises(ConfigAttributeError, match="splitt"):
        quickly_composed(EvaluateConfig, "evaluate", ["splitt=val"])
