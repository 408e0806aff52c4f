"""Exports a trained network: dali-dbnet export checkpoint=FILE format=onnx output=FILE"""

import hydra
from omegaconf import DictConfig

from ocr.command_line import CONFIG_DIR, checked_job, prepare_hydra, run_command
from ocr.config import ExportConfig
from ocr.quick_imports import quick_imports

prepare_hydra()


@hydra.main(config_path=str(CONFIG_DIR), config_name="export", version_base="1.3")
def _main(hydra_config: DictConfig) -> None:
    with checked_job(ExportConfig, hydra_config) as (config, _):
        with quick_imports():
            from ocr.export.run import export

        export(config)


def run() -> None:
    """Runs the command with the arguments of this process."""
    run_command(_main, "export")
