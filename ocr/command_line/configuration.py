"""Composes the configuration of a command from files, schemas and overrides, and keeps to what is for users in the log."""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from dali_pipelines.config import Section
from ocr.command_line.path_overrides import with_literal_paths
from ocr.command_line.set_overrides import with_sets
from ocr.config import (
    NOT_SET,
    AnyConfig,
    EvaluateConfig,
    ExportConfig,
    InspectConfig,
    PredictConfig,
    PrepareConfig,
    TrainConfig,
    flat_keys,
    validate_config,
)
from ocr.datasets.schemas import DatasetConfig
from ocr.file_names import shown_lines
from ocr.program import in_users_words

_PLACES = (Path(__file__).resolve().parents[1] / "_bundled", Path(__file__).resolve().parents[2])
CONFIG_DIR = next(place for place in _PLACES if (place / "configs").is_dir()) / "configs"
"""Folder of the configuration files: in a wheel below this package, in a checkout beside it."""
NOT_FOR_USERS = (
    "Experiment logs directory",  # the run's folder exists already: it holds config.yaml
    "The number of training batches",  # fewer than log_every_n_steps
    ".*LeafSpec.* is deprecated",  # inside Lightning
    "It is recommended to use `self.log",  # scores are summed over ranks already; the loss shown is that of rank 0
    "The dirpath has changed from",  # on a resume; BestCheckpoint handles it
    "Checkpoint directory",  # a run that resumes in its own folder; checkpoints there are replaced only by whole ones
    "The `srun` command is available",  # a run in a SLURM job may well be one process
    "Found .* module.s. in eval mode",  # those that model.freeze and model.batch_norm freeze
    # With 16-mixed, an optimizer step whose gradients overflow is left out, often the first one; the schedule moves on.
    "Detected call of `lr_scheduler.step",
    "predict returned None",  # on purpose: detections leave the module through its workers
)
"""Warnings from libraries that a user can do nothing about."""
CHATTY_LOGGERS = (
    # The loggers that Lightning writes with. It sets the level of their parents when it is imported, which is later.
    "lightning.pytorch.utilities.rank_zero",
    "lightning.fabric.utilities.rank_zero",
    "timm",
    "botocore",
)
"""Loggers whose information lines are not for users."""
SCHEMAS: dict[str, type[Section]] = {}
"""The configurations of all commands by the first word of their names, once `prepare_hydra` has run."""


def prepare_hydra(*schemas: tuple[str, type[Section]]) -> None:
    """Gives Hydra every key with its default from the pydantic schemas, and silences warnings that are not for users.

    Args:
        schemas: (name in the ConfigStore, class) of further schemas.
    """
    shared: list[tuple[str, type[Section]]] = [
        ("train_schema", TrainConfig),
        ("evaluate_schema", EvaluateConfig),
        ("predict_schema", PredictConfig),
        ("export_schema", ExportConfig),
        ("prepare_schema", PrepareConfig),
        ("inspect_schema", InspectConfig),
    ]
    for name, schema in (*shared, *schemas):
        command = name.removesuffix("_schema")
        if command not in SCHEMAS:  # storing them takes a third of the time of a composition
            ConfigStore.instance().store(name=name, node=schema.model_construct().model_dump(mode="json"))
            SCHEMAS[command] = schema
    OmegaConf.register_new_resolver("first_existing", _first_existing, replace=True)
    OmegaConf.register_new_resolver("found", _found, replace=True)
    silence_libraries()
    logging.setLogRecordFactory(SafeLogRecord)


def silence_libraries() -> None:
    """Hides the warnings and information lines of libraries that are not for users."""
    for message in NOT_FOR_USERS:
        warnings.filterwarnings("ignore", message=message)
    for name in CHATTY_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)


class SafeLogRecord(logging.LogRecord):
    """A log record whose message cannot control a terminal, whatever file names and texts it quotes."""

    def getMessage(self) -> str:
        return in_users_words(shown_lines(super().getMessage()))


def compose_config(config_class: type[AnyConfig], name: str, overrides: Sequence[str]) -> AnyConfig:
    """Returns the configuration that a script of this checkout gets from these overrides.

    Raises:
        SystemExit: a value is wrong; the message names it.
    """
    prepare_hydra()
    overrides = with_sets(with_literal_paths(overrides, set(SCHEMAS.values())), CONFIG_DIR)
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return validate_config(config_class, compose(name, overrides=overrides))


def is_given(key: str) -> bool:
    """Returns whether the command line of this Hydra job sets a key of Hydra's own; outside a command it does."""
    if not HydraConfig.initialized():
        return True
    return any(given.lstrip("+~").partition("=")[0] == key for given in HydraConfig.get().overrides.hydra)


def given_keys(hydra_config: DictConfig) -> frozenset[str]:
    """Returns the keys of this Hydra job, written with dots, that its command line sets: by name, or by the choice of a file.

    A file sets the keys whose values differ from those of a command line without overrides. The recipe that comes with a data set
    sets none: it is no choice of the user, and the checkpoint holds what the run was trained with.
    """
    hydra = HydraConfig.get()
    values = flat_keys(OmegaConf.to_container(hydra_config, resolve=True))
    same_recipe = compose(hydra.job.config_name, overrides=[f"recipe={hydra.runtime.choices['data']}"])
    plain = flat_keys(OmegaConf.to_container(same_recipe, resolve=True))
    named = [override.lstrip("+~").partition("=")[0] for override in hydra.overrides.task]
    return frozenset(
        key
        for key, value in values.items()
        if key not in plain or plain[key] != value or any(key == name or key.startswith(f"{name}.") for name in named)
    )


def _first_existing(*paths: str) -> str:
    """Returns the first path that exists, or the last one if none does."""
    return next((path for path in paths[:-1] if Path(path).exists()), paths[-1])


def _found(folder: str, split: str, key: str) -> str | None:
    """Returns the value of a split's key for the data set in a folder (data=auto); its default if there is no such split."""
    from ocr.datasets.layout import find_splits  # loads the readers, which --help must not

    found = find_splits(folder, DatasetConfig.model_fields["image_extensions"].default).get(split)
    if found is None:
        return NOT_SET if key == "image_path" else DatasetConfig.model_fields[key].default
    return str(getattr(found, key))
