"""Metrics of a checkpoint: uv run scripts/evaluate.py checkpoint=FILE split=val"""

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ocr.command_line import plain_errors, prepare
from ocr.config import EvaluateConfig, validate_config
from ocr.inference import evaluate

prepare()


@hydra.main(config_path="../configs", config_name="evaluate", version_base="1.3")
def main(hydra_config: DictConfig) -> None:
    config = validate_config(EvaluateConfig, hydra_config)
    with plain_errors():
        evaluate(config, Path(HydraConfig.get().runtime.output_dir))


if __name__ == "__main__":
    main()
