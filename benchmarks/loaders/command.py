"""The command that measures loaders and recommends one: dali-dbnet compare key=value ..."""

import sys

import hydra
from omegaconf import DictConfig

from benchmarks.loaders.config import CompareConfig, as_overrides
from ocr.command_line import CONFIG_DIR, checked_job, prepare_hydra, run_command
from ocr.quick_imports import quick_imports

prepare_hydra(("compare_schema", CompareConfig))


@hydra.main(config_path=str(CONFIG_DIR), config_name="compare_loaders", version_base="1.3")
def _main(hydra_config: DictConfig) -> None:
    with checked_job(CompareConfig, hydra_config) as (config, run_dir):
        with quick_imports():
            from benchmarks.loaders.compare import compare_loaders

        compare_loaders(config, run_dir)


def run() -> None:
    """Runs the command with the arguments of this process."""
    sys.argv[1:] = as_overrides(sys.argv[1:])
    run_command(_main, "compare_loaders")
