"""Trains a text detector: uv run scripts/train.py key=value ..."""

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ocr.command_line import plain_errors, prepare
from ocr.config import TrainConfig, validate_config
from ocr.training.fit import train

prepare()


@hydra.main(config_path="../configs", config_name="train", version_base="1.3")
def main(hydra_config: DictConfig) -> None:
    config = validate_config(TrainConfig, hydra_config)
    with plain_errors():
        train(config, Path(HydraConfig.get().runtime.output_dir))


if __name__ == "__main__":
    main()
