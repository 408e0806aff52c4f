"""Evaluates a checkpoint: uv run scripts/evaluate.py checkpoint=FILE split=val"""

import hydra
from omegaconf import DictConfig

from ocr.command_line import checked_job, prepare_hydra, run_command
from ocr.config import EvaluateConfig

prepare_hydra()


@hydra.main(config_path="../configs", config_name="evaluate", version_base="1.3")
def main(hydra_config: DictConfig) -> None:
    with checked_job(EvaluateConfig, hydra_config) as job:
        from ocr.inference import evaluate

        evaluate(job.config, job.output_dir)


if __name__ == "__main__":
    run_command(main)
