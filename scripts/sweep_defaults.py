"""Measures which settings are worth changing: uv run scripts/sweep_defaults.py key=value ..."""

import sys

import hydra
from omegaconf import DictConfig

from benchmarks.loaders.config import as_overrides
from benchmarks.sweep.config import SweepConfig
from ocr.command_line import checked_job, prepare_hydra, run_command
from ocr.quick_imports import quick_imports

prepare_hydra(("sweep_schema", SweepConfig))


@hydra.main(config_path="../configs", config_name="sweep_defaults", version_base="1.3")
def main(hydra_config: DictConfig) -> None:
    with checked_job(SweepConfig, hydra_config) as (config, run_dir):
        with quick_imports():
            from benchmarks.sweep.run import sweep_defaults

        sweep_defaults(config, run_dir)


if __name__ == "__main__":
    sys.argv[1:] = as_overrides(sys.argv[1:], example="num_threads,compile")
    run_command(main, "sweep_defaults")
