"""Measures loaders and recommends one: uv run scripts/compare_loaders.py key=value ..."""

import sys

import hydra
from omegaconf import DictConfig

from benchmarks.loaders.config import CompareConfig, as_overrides
from ocr.command_line import checked_job, prepare_hydra, run_command

prepare_hydra(("compare_schema", CompareConfig))


@hydra.main(config_path="../configs", config_name="compare_loaders", version_base="1.3")
def main(hydra_config: DictConfig) -> None:
    with checked_job(CompareConfig, hydra_config) as job:
        from benchmarks.loaders.compare import compare_loaders

        compare_loaders(job.config, job.output_dir)


if __name__ == "__main__":
    sys.argv[1:] = as_overrides(sys.argv[1:])
    run_command(main)
