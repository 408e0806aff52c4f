"""Eight minutes of training on real receipts."""

from benchmarks.gpu_check.figures import CannotMeasure, Keep
from benchmarks.gpu_check.images import run_folder
from benchmarks.gpu_check.settings import CheckSettings
from ocr.command_line import compose_config, prepare_hydra
from ocr.config import TrainConfig
from ocr.training.fit import train
from ocr.training.scores import STRICT_IOU


def measure(settings: CheckSettings, keep: Keep) -> None:
    if settings.data is None:
        raise CannotMeasure("--data FOLDER with real receipts is needed, laid out for data=upstage")
    prepare_hydra()
    overrides = [
        "data=upstage",
        f"dataset_base_path={settings.data}",
        "experiment=receipts_cpu" if settings.cpu else "experiment=receipts",
    ]
    overrides += ["trainer.max_time=00:00:08:00", f"device={'cpu' if settings.cpu else 'gpu'}"]
    folder = run_folder(settings, "receipts")
    summary = train(compose_config(TrainConfig, "train", overrides), folder)
    keep({"summary": summary, "strict_iou": STRICT_IOU})
