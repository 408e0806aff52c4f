"""Finds text in images: dali-dbnet predict checkpoint=FILE images=PATH output=DIR"""

import hydra
from omegaconf import DictConfig

from ocr.command_line import CONFIG_DIR, checked_job, prepare_hydra, run_command
from ocr.config import PredictConfig
from ocr.quick_imports import quick_imports

prepare_hydra()


@hydra.main(config_path=str(CONFIG_DIR), config_name="predict", version_base="1.3")
def _main(hydra_config: DictConfig) -> None:
    with checked_job(PredictConfig, hydra_config) as (config, run_dir):
        with quick_imports():
            from ocr.inference import predict

        predict(config, run_dir)


def run() -> None:
    """Runs the command with the arguments of this process."""
    run_command(_main, "predict")
