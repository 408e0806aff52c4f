from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from benchmarks.recipes.inputs import Places
from benchmarks.recipes.recipes import GROUPS, Group
from benchmarks.sweep.factors import varied
from ocr.command_line import compose_config
from ocr.config import EvaluateConfig, TrainConfig

PLACES = Places(Path("data"), Path("weights"), Path("work"), Path("best.ckpt"), Path("small.safetensors"))


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)
def test_the_baseline_composes_and_accepts_each_recipe(group: Group) -> None:
    schema = TrainConfig if group.script == "train" else EvaluateConfig
    config = compose_config(schema, group.script, PLACES.filled(group.common))
    parser = OverridesParser.create()
    for recipe in group.recipes:
        overrides = parser.parse_overrides(PLACES.filled(recipe.overrides))
        changed = varied(config, {override.key_or_group: override.value() for override in overrides})
        assert changed != config, recipe.name


def test_recipes_of_a_group_have_names_of_their_own() -> None:
    for group in GROUPS:
        recipes = (group.baseline, *group.recipes)
        assert len({recipe.name for recipe in recipes}) == len(recipes)
