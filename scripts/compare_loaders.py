"""Which loader should I use: uv run scripts/compare_loaders.py key=value ..."""

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from benchmarks.loaders.compare import compare_loaders
from benchmarks.loaders.config import CompareConfig, as_overrides
from ocr.command_line import plain_errors, prepare
from ocr.config import validate_config

prepare(("compare_schema", CompareConfig))


@hydra.main(config_path="../configs", config_name="compare_loaders", version_base="1.3")
def main(hydra_config: DictConfig) -> None:
    config = validate_config(CompareConfig, hydra_config)
    with plain_errors():
        compare_loaders(config, Path(HydraConfig.get().runtime.output_dir))


if __name__ == "__main__":
    sys.argv[1:] = as_overrides(sys.argv[1:])
    main()
