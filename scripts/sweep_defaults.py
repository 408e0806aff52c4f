"""Which settings are worth changing: uv run scripts/sweep_defaults.py key=value ..."""

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from benchmarks.loaders.config import as_overrides
from benchmarks.sweep.config import SweepConfig
from benchmarks.sweep.run import sweep_defaults
from ocr.command_line import plain_errors, prepare
from ocr.config import validate_config

prepare(("sweep_schema", SweepConfig))


@hydra.main(config_path="../configs", config_name="sweep_defaults", version_base="1.3")
def main(hydra_config: DictConfig) -> None:
    config = validate_config(SweepConfig, hydra_config)
    with plain_errors():
        sweep_defaults(config, Path(HydraConfig.get().runtime.output_dir))


if __name__ == "__main__":
    sys.argv[1:] = as_overrides(sys.argv[1:], example="num_threads,compile")
    main()
