"""What the Hydra scripts share: schemas in the ConfigStore, one resolver, quiet libraries."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from dali_pipelines.config import Section
from ocr.config import AnyConfig, EvaluateConfig, PredictConfig, PrepareConfig, TrainConfig, validate_config
from ocr.errors import CacheError, InputError, OutOfMemory, StorageError
from ocr.memory.out_of_memory import ExplainShortages

NOT_FOR_USERS = (
    "Experiment logs directory",  # the run's folder holds config.yaml already
    "The number of training batches",  # fewer than log_every_n_steps
    ".*LeafSpec.* is deprecated",  # inside Lightning
    "It is recommended to use `self.log",  # scores are summed over ranks already; the loss shown is that of rank 0
    "The dirpath has changed from",  # on a resume; BestCheckpoint sees to it
)
"""Warnings of libraries that are true and of no use to who runs a script."""


def prepare(*schemas: tuple[str, type[Section]]) -> None:
    """Gives Hydra every key and its default, from the pydantic schemas, and silences what users need not read.

    Args:
        schemas: name in the ConfigStore and class of those that only one script has.
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
    for name in ("lightning.pytorch", "lightning.fabric", "timm", "botocore"):
        logging.getLogger(name).setLevel(logging.WARNING)


def compose_config(config_class: type[AnyConfig], name: str, overrides: Sequence[str]) -> AnyConfig:
    """What a script of this checkout would get from these overrides, without its command line. `prepare` comes first.

    Raises:
        SystemExit: a value is wrong; the message names it.
    """
    with initialize_config_dir(str(Path(__file__).resolve().parents[1] / "configs"), version_base="1.3"):
        return validate_config(config_class, compose(name, overrides=list(overrides)))


@contextmanager
def plain_errors() -> Iterator[None]:
    """Ends the program with the message alone where the input is at fault, or memory ran out."""
    try:
        with ExplainShortages(when=""):  # where no command has advice of its own
            yield
    except (InputError, StorageError, CacheError, OutOfMemory, FileNotFoundError, FileExistsError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from None


def _first_existing(*paths: str) -> str:
    """The first of the paths that exists; the last where none does."""
    return next((path for path in paths[:-1] if Path(path).exists()), paths[-1])
