"""The loaders compared, and a training step beside the same step on a batch that is there already."""

from collections.abc import Callable
from typing import Any

from benchmarks.gpu_check.figures import Figures, Keep
from benchmarks.gpu_check.images import given_or_drawn, run_folder
from benchmarks.gpu_check.settings import CheckSettings
from benchmarks.loaders.compare import compare_loaders
from benchmarks.loaders.config import LEVELS, CompareConfig
from benchmarks.loaders.results import Results
from ocr.command_line import compose_config, prepare_hydra

STEP_ROWS = ("replay", "dali_gpu", "dali_images")


def measure_levels(settings: CheckSettings, keep: Keep) -> None:
    """All levels, the rows of this project."""
    if settings.cpu:
        options = ["levels=[input,input+targets]", "only=[replay,dali_cpu]", "rounds=1", "pipeline.image_size=128"]
        options += ["dataloader.batch_size=4", "num_images=8", "cold=false"]
    else:
        options = [f"levels=[{','.join(LEVELS)}]", "only=[replay,torch_ram,dali]", "rounds=3"]
        options += ["dataloader.batch_size=16", "dataloader.num_workers=8", "step_batches=12", "num_images=256"]
    _compare(settings, "loaders", options, lambda results: keep(_figures(results)))


def measure_steps(settings: CheckSettings, keep: Keep) -> None:
    """Training steps at 640 of both backbones."""
    figures: Figures = {}
    for backbone in ("resnet18",) if settings.cpu else ("resnet18", "resnet50"):
        if settings.cpu:
            options = ["only=[replay,dali_cpu]", "rounds=1", "pipeline.image_size=64", "dataloader.batch_size=2"]
            options += ["model.fpn_channels=16", "step_batches=2", "trainer.precision=32-true", "seconds=0.05"]
        else:
            options = [
                f"only=[{','.join(STEP_ROWS)}]",
                "rounds=3",
                "pipeline.image_size=640",
                "dataloader.batch_size=16",
            ]
            options += ["step_batches=24", "seconds=1"]
        options += [
            "levels=[train-step]",
            "augment=true",
            f"model.backbone.name={backbone}",
        ]

        def note(results: Results, backbone: str = backbone) -> None:
            figures[backbone] = _figures(results)
            keep(figures)

        _compare(settings, f"step_{backbone}", options, note)


def _compare(settings: CheckSettings, name: str, options: list[str], note: Callable[[Results], None]) -> None:
    prepare_hydra(("compare_schema", CompareConfig))
    given = ["data=upstage", f"dataset_base_path={given_or_drawn(settings)}", "model.backbone.weights=null"]
    given += [f"device={'cpu' if settings.cpu else 'gpu'}", "sweep=false"]
    config = compose_config(CompareConfig, "compare_loaders", [*given, *options])
    compare_loaders(config, run_folder(settings, name), note)


def _figures(results: Results) -> dict[str, Any]:
    levels: dict[str, Any] = {}
    for level, rows in results.levels.items():
        for row, measured in rows.items():
            rates = [round_["images"] / round_["seconds"] for round_ in measured.rounds]
            levels.setdefault(level, {})[row] = {
                "images_per_second": rates,
                "share_of_replay": results.share_of_replay(level, row),
                "parity": measured.parity,
                "reason": measured.reason,
            }
    return {"levels": levels, "verdict": results.verdict}
