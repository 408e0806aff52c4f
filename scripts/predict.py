"""Finds text in images: uv run scripts/predict.py checkpoint=FILE images=PATH output=DIR"""

import hydra
from omegaconf import DictConfig

from ocr.command_line import checked_job, prepare_hydra, run_command
from ocr.config import PredictConfig

prepare_hydra()


@hydra.main(config_path="../configs", config_name="predict", version_base="1.3")
def main(hydra_config: DictConfig) -> None:
    with checked_job(PredictConfig, hydra_config) as job:
        from ocr.inference import predict

        predict(job.config, job.output_dir)


if __name__ == "__main__":
    run_command(main)
