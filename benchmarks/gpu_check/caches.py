"""The tensor cache: each setting gives the scores of none, takes the bytes predicted, and a cached epoch is fast."""

from benchmarks.gpu_check.figures import Figures, Keep
from benchmarks.gpu_check.images import learnable, run_folder, trained_checkpoint
from benchmarks.gpu_check.settings import CheckSettings
from benchmarks.validation.cache_settings import compare_cache_settings
from benchmarks.validation.speed import time_validation
from ocr.command_line import prepare_hydra


def measure(settings: CheckSettings, keep: Keep) -> None:
    prepare_hydra()
    small = ["synthetic.num_val=12", "synthetic.num_train=4", "pipeline.image_size=256", "model.fpn_channels=32"]
    overrides = [
        f"dataset_base_path={run_folder(settings, 'speed_data')}",
        "model.backbone.weights=null",
        f"device={'cpu' if settings.cpu else 'gpu'}",
        *(
            ["trainer.max_epochs=2", *small]
            if settings.cpu
            else ["trainer.max_epochs=4", "dataloader.eval_batch_size=16"]
        ),
    ]
    figures: Figures = {"speed": time_validation(overrides)}
    keep(figures)
    figures["settings"] = compare_cache_settings(
        trained_checkpoint(settings), learnable(settings), with_two_processes=False
    )
    keep(figures)
