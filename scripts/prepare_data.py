"""Checks a data set and writes it ready for training: uv run scripts/prepare_data.py data=... output=FOLDER"""

import hydra
from omegaconf import DictConfig

from ocr.command_line import checked_job, prepare_hydra, run_command
from ocr.config import PrepareConfig

prepare_hydra()


@hydra.main(config_path="../configs", config_name="prepare_data", version_base="1.3")
def main(hydra_config: DictConfig) -> None:
    with checked_job(PrepareConfig, hydra_config) as job:
        from ocr.preparation.prepare import prepare_data

        prepare_data(job.config, job.output_dir)


if __name__ == "__main__":
    run_command(main)
