"""Text in a folder of images: uv run scripts/predict.py checkpoint=FILE images=DIR output=DIR"""

import hydra
from omegaconf import DictConfig

from ocr.command_line import prepare_hydra, run_command
from ocr.config import PredictConfig
from ocr.inference import predict

prepare_hydra()


@hydra.main(config_path="../configs", config_name="predict", version_base="1.3")
def main(hydra_config: DictConfig) -> None:
    run_command(predict, PredictConfig, hydra_config)


if __name__ == "__main__":
    main()
