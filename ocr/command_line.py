"""What the Hydra scripts share: schemas in the ConfigStore, one resolver, log lines."""

from pathlib import Path

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from ocr.config import EvaluateConfig, PredictConfig, TrainConfig


def register_schemas() -> None:
    """Gives Hydra every key and its default, from the pydantic schemas."""
    store = ConfigStore.instance()
    store.store(name="train_schema", node=TrainConfig().model_dump(mode="json"))
    for name, schema in (("evaluate_schema", EvaluateConfig), ("predict_schema", PredictConfig)):
        store.store(name=name, node=schema.model_construct().model_dump(mode="json"))
    OmegaConf.register_new_resolver("first_existing", _first_existing, replace=True)


def _first_existing(*paths: str) -> str:
    """The first of the paths that exists; the last where none does."""
    return next((path for path in paths[:-1] if Path(path).exists()), paths[-1])
