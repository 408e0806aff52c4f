"""Trains a text detector: uv run scripts/train.py key=value ..."""

import hydra
from omegaconf import DictConfig

from ocr.command_line import prepare_hydra, run_command
from ocr.config import TrainConfig
from ocr.training.fit import train

prepare_hydra()


@hydra.main(config_path="../configs", config_name="train", version_base="1.3")
def main(hydra_config: DictConfig) -> None:
    run_command(train, TrainConfig, hydra_config)


if __name__ == "__main__":
    main()
