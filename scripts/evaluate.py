"""Metrics of a checkpoint: uv run scripts/evaluate.py checkpoint=FILE split=val"""

import hydra
from omegaconf import DictConfig

from ocr.command_line import prepare_hydra, run_command
from ocr.config import EvaluateConfig
from ocr.inference import evaluate

prepare_hydra()


@hydra.main(config_path="../configs", config_name="evaluate", version_base="1.3")
def main(hydra_config: DictConfig) -> None:
    run_command(evaluate, EvaluateConfig, hydra_config)


if __name__ == "__main__":
    main()
