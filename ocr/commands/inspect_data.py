"""Shows a data set as the network gets it, in one HTML file: dali-dbnet inspect data=... dataset_base_path=FOLDER"""

import sys

import hydra
from omegaconf import DictConfig

from ocr.command_line import CONFIG_DIR, checked_job, prepare_hydra, run_command
from ocr.config import InspectConfig
from ocr.quick_imports import quick_imports

prepare_hydra()


@hydra.main(config_path=str(CONFIG_DIR), config_name="inspect_data", version_base="1.3")
def _main(hydra_config: DictConfig) -> None:
    with checked_job(InspectConfig, hydra_config) as (config, run_dir):
        with quick_imports():
            from ocr.inspection.inspect_data import inspect_data

        inspect_data(config, run_dir)


def run() -> None:
    """Runs the command with the arguments of this process. The option --png is the key png=true."""
    sys.argv[1:] = ["png=true" if argument == "--png" else argument for argument in sys.argv[1:]]
    run_command(_main, "inspect_data")
