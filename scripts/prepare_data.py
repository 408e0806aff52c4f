"""Checks a data set and writes it ready for training: uv run scripts/prepare_data.py data=... output=FOLDER"""

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ocr.command_line import plain_errors, prepare
from ocr.config import PrepareConfig, validate_config
from ocr.preparation.prepare import prepare_data

prepare()


@hydra.main(config_path="../configs", config_name="prepare_data", version_base="1.3")
def main(hydra_config: DictConfig) -> None:
    config = validate_config(PrepareConfig, hydra_config)
    with plain_errors():
        prepare_data(config, Path(HydraConfig.get().runtime.output_dir))


if __name__ == "__main__":
    main()
