"""Checks a data set and writes it ready for training: uv run scripts/prepare_data.py data=... output=FOLDER"""

import hydra
from omegaconf import DictConfig

from ocr.command_line import prepare_hydra, run_command
from ocr.config import PrepareConfig
from ocr.preparation.prepare import prepare_data

prepare_hydra()


@hydra.main(config_path="../configs", config_name="prepare_data", version_base="1.3")
def main(hydra_config: DictConfig) -> None:
    run_command(prepare_data, PrepareConfig, hydra_config)


if __name__ == "__main__":
    main()
