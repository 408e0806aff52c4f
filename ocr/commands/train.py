"""Trains a text detector: dali-dbnet train key=value ..."""

import hydra
from omegaconf import DictConfig

from ocr.command_line import CONFIG_DIR, checked_job, given_keys, prepare_hydra, run_command
from ocr.config import TrainConfig
from ocr.quick_imports import quick_imports

prepare_hydra()


@hydra.main(config_path=str(CONFIG_DIR), config_name="train", version_base="1.3")
def _main(hydra_config: DictConfig) -> float | None:
    """Returns the best validation hmean, which is what a sweeper optimises."""
    with checked_job(TrainConfig, hydra_config) as (config, run_dir):
        with quick_imports():
            from ocr.training.fit import train

        looks_in_file = config.resume is not None or config.init_from is not None
        summary = train(config, run_dir, given=given_keys(hydra_config) if looks_in_file else None)
    return summary.get("hmean")


def run() -> None:
    """Runs the command with the arguments of this process."""
    run_command(_main, "train")
