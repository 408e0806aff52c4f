"""Writes the overrides of several data sets in the form that Hydra can merge.

    data=[upstage,icdar] dataset_base_path=[A,B]   datasets.train_dataset.config.sets=[{name:upstage,...},{name:icdar,...}] ...
    datasets.train_dataset.config=[{...},{...}]    datasets.train_dataset.config.sets=[{...},{...}]

Hydra refuses to put a list in the place of a section, and merges several files of `data` so that the last one wins.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationResolutionError

from ocr.command_line.path_overrides import quoted
from ocr.config import NOT_SET, resolver_message
from ocr.datasets.schemas import SetConfig
from ocr.errors import InputError

_SPLITS = ("train", "val", "test")
_LIST_OF_SETS = re.compile(r"(datasets\.\w+_dataset\.config)=(?=\[)")
_DRAWN, _SHARDS = "synthetic", "webdataset"
_KEYS = [key for key in SetConfig.model_fields if key not in ("name", "weight")]


def with_sets(arguments: Sequence[str], config_dir: Path) -> list[str]:
    """Returns the arguments of a command with its several data sets as overrides of `sets`; all others unchanged.

    Args:
        config_dir: folder of the configuration files.

    Raises:
        InputError: data=[...] and dataset_base_path do not fit.
    """
    arguments = [_LIST_OF_SETS.sub(r"\1.sets=", argument, count=1) for argument in arguments]
    places = [place for place, argument in enumerate(arguments) if argument.startswith("data=[")]
    if not places:
        return arguments
    names, folders = _list_in(arguments[places[-1]]), _folders_in(arguments)
    if not names:
        raise InputError("data=[]: no data set; give at least one, such as data=[upstage,icdar]")
    if folders is not None and len(folders) != len(names):
        raise InputError(
            f"dataset_base_path: found {len(folders)} folders for the {len(names)} data sets of data=[{','.join(names)}]; "
            "give one for each, dataset_base_path=[FOLDER,FOLDER], or none for the usual folders"
        )
    if _SHARDS in names and len(names) > 1:
        raise InputError(
            f"data=[{','.join(names)}]: shards cannot be mixed with other data sets; give folders of files"
        )
    others = [argument for argument in arguments if not argument.startswith(("data=", "dataset_base_path="))]
    return [*_overrides(names, folders, config_dir), *others]


def _list_in(argument: str) -> list[str]:
    """Returns the elements of an override like `data=[a,b]`; an argument that Hydra cannot read has none."""
    try:
        value = OverridesParser.create().parse_override(argument).value()
    except HydraException as error:
        raise InputError(
            f"{argument}: not a list that Hydra can read; put elements with special characters in quotes"
        ) from error
    return [str(element) for element in value] if isinstance(value, list) else [str(value)]


def _folders_in(arguments: Sequence[str]) -> list[str] | None:
    given = [argument for argument in arguments if argument.startswith("dataset_base_path=")]
    return _list_in(given[-1]) if given else None


def _overrides(names: list[str], folders: list[str] | None, config_dir: Path) -> list[str]:
    """Returns the choice of a data set, for all settings that are not lists, and the sets of each split."""
    chosen = [
        [f"data={name}", *([f"dataset_base_path={quoted(folders[number])}"] if folders else [])]
        for number, name in enumerate(names)
    ]
    base = chosen[names.index(_DRAWN) if _DRAWN in names else 0]  # only then is the synthetic set drawn
    if len(names) == 1:
        return base
    with initialize_config_dir(str(config_dir), version_base="1.3"):
        composed = [_composed(overrides) for overrides in chosen]
    overrides = list(base)
    for split in _SPLITS:
        sets = []
        for name, config in zip(names, composed, strict=True):
            values = config["datasets"][f"{split}_dataset"]["config"]
            if values["sets"]:  # the choice is several sets itself, such as sroie_and_icdar15
                sets += values["sets"]
            elif values["image_path"] != NOT_SET:
                sets.append(
                    {"name": name if names.count(name) == 1 else None, "weight": None} | {k: values[k] for k in _KEYS}
                )
        overrides += [f"datasets.{split}_dataset.config.sets=[{','.join(map(_written, sets))}]"] if sets else []
    return overrides


def _composed(overrides: list[str]) -> Any:
    try:
        return OmegaConf.to_container(compose("train", overrides), resolve=True)
    except InterpolationResolutionError as error:  # data=auto found no data set
        raise InputError(f"{' '.join(overrides)}: {resolver_message(error)}") from error


def _written(values: dict[str, Any]) -> str:
    """Returns a section of texts, numbers and nulls as Hydra's command line writes it; numbers as texts, which the schema reads."""
    texts = {key: "null" if value is None else quoted(str(value)) for key, value in values.items()}
    return "{" + ",".join(f"{key}:{text}" for key, text in texts.items()) + "}"
