"""The common part of the Hydra scripts: registers schemas, silences libraries, checks the configuration, and runs the command
with errors as plain messages."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from dali_pipelines.config import Section
from ocr.config import AnyConfig, EvaluateConfig, PredictConfig, PrepareConfig, TrainConfig, validate_config
from ocr.errors import CacheError, InputError, OutOfMemory, StorageError
from ocr.memory.out_of_memory import ExplainOutOfMemory

NOT_FOR_USERS = (
    "Experiment logs directory",  # the run's folder exists already: it holds config.yaml
    "The number of training batches",  # fewer than log_every_n_steps
    ".*LeafSpec.* is deprecated",  # inside Lightning
    "It is recommended to use `self.log",  # scores are summed over ranks already; the loss shown is that of rank 0
    "The dirpath has changed from",  # on a resume; BestCheckpoint handles it
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


def prepare_hydra(*schemas: tuple[str, type[Section]]) -> None:
    """Gives Hydra every key with its default from the pydantic schemas, and silences warnings that are not for users.

    Args:
        schemas: (name in the ConfigStore, class) of further schemas.
    """
    store = ConfigStore.instance()
    store.store(name="train_schema", node=TrainConfig().model_dump(mode="json"))
    shared: list[tuple[str, type[Section]]] = [
        ("evaluate_schema", EvaluateConfig),
        ("predict_schema", PredictConfig),
        ("prepare_schema", PrepareConfig),
    ]
    for name, schema in (*shared, *schemas):
        store.store(name=name, node=schema.model_construct().model_dump(mode="json"))
    OmegaConf.register_new_resolver("first_existing", _first_existing, replace=True)
    for message in NOT_FOR_USERS:
        warnings.filterwarnings("ignore", message=message)
    for name in CHATTY_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)


@dataclass(frozen=True)
class Job(Generic[AnyConfig]):
    """A command about to run."""

    config: AnyConfig
    output_dir: Path
    """The run folder of this Hydra job."""


@contextmanager
def checked_job(config_class: type[AnyConfig], hydra_config: DictConfig) -> Iterator[Job[AnyConfig]]:
    """Gives the checked configuration and the run folder to the `with` block that runs the command.

    The command is imported inside the block: torch, Lightning and DALI take seconds to load, and neither `--help` nor a wrong
    setting needs them.

    Raises:
        SystemExit: a key or the input is wrong, or memory ran out; its text is the message alone.
    """
    config = validate_config(config_class, hydra_config)
    with plain_errors():
        yield Job(config, Path(HydraConfig.get().runtime.output_dir))


def compose_config(config_class: type[AnyConfig], name: str, overrides: Sequence[str]) -> AnyConfig:
    """Returns the configuration that a script of this checkout gets from these overrides.

    Raises:
        SystemExit: a value is wrong; the message names it.
    """
    prepare_hydra()
    with initialize_config_dir(str(Path(__file__).resolve().parents[1] / "configs"), version_base="1.3"):
        return validate_config(config_class, compose(name, overrides=list(overrides)))


@contextmanager
def plain_errors() -> Iterator[None]:
    """Ends the program with the message alone, without a traceback, if the input is wrong or memory ran out."""
    try:
        with ExplainOutOfMemory(when=""):  # for commands without advice of their own
            yield
    except (InputError, StorageError, CacheError, OutOfMemory, FileNotFoundError, FileExistsError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from None


def _first_existing(*paths: str) -> str:
    """Returns the first path that exists, or the last one if none does."""
    return next((path for path in paths[:-1] if Path(path).exists()), paths[-1])
