"""Text in a folder of images: uv run scripts/predict.py checkpoint=FILE images=DIR output=DIR"""

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ocr.command_line import plain_errors, prepare
from ocr.config import PredictConfig, validate_config
from ocr.inference import predict

prepare()


@hydra.main(config_path="../configs", config_name="predict", version_base="1.3")
def main(hydra_config: DictConfig) -> None:
    config = validate_config(PredictConfig, hydra_config)
    with plain_errors():
        predict(config, Path(HydraConfig.get().runtime.output_dir))


if __name__ == "__main__":
    main()
