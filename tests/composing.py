"""Configurations from overrides, composed by Hydra once for each choice of files.

A composition takes a quarter of a second, in which Hydra mostly copies the defaults. Here values are set in copies of its result.
"""

from collections.abc import Sequence
from copy import deepcopy
from functools import cache

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from ocr.command_line import CONFIG_DIR, prepare_hydra
from ocr.command_line.path_overrides import with_literal_paths
from ocr.command_line.set_overrides import with_sets
from ocr.config import AnyConfig, validate_config


@cache
def _composed(name: str, choices: tuple[str, ...]) -> DictConfig:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return compose(name, overrides=list(choices))


def quickly_composed(config_class: type[AnyConfig], name: str, overrides: Sequence[str]) -> AnyConfig:
    """Returns what `compose_config` returns. Overrides are choices of files and `key=value` of keys that exist.

    Args:
        name: name of the script, whose schema `prepare_hydra` has registered if it is not one of the usual ones.
    """
    prepare_hydra()
    literal = with_sets(with_literal_paths(overrides, [config_class]), CONFIG_DIR)
    parsed = OverridesParser.create().parse_overrides(literal)
    is_choice = [(CONFIG_DIR / override.key_or_group).is_dir() for override in parsed]
    choices = tuple(given for given, chosen in zip(literal, is_choice, strict=True) if chosen)
    config = deepcopy(_composed(name, choices))
    for override, chosen in zip(parsed, is_choice, strict=True):
        if not chosen:
            OmegaConf.update(config, override.key_or_group, override.value())
    return validate_config(config_class, config)
