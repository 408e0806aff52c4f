"""The same checkpoint evaluated on the GPU and on the CPU; without a GPU by both engines of the CPU."""

from benchmarks.gpu_check.figures import Figures, Keep
from benchmarks.gpu_check.images import run_folder, trained_checkpoint
from benchmarks.gpu_check.settings import CheckSettings
from ocr.config import EvaluateConfig
from ocr.inference import evaluate


def measure(settings: CheckSettings, keep: Keep) -> None:
    checkpoint = trained_checkpoint(settings)
    ways = (
        [{"device": "cpu", "loader": "dali"}, {"device": "cpu", "loader": "torch"}]
        if settings.cpu
        else [{"device": "gpu", "loader": "dali"}, {"device": "cpu", "loader": "dali"}]
    )
    results: list[Figures] = []
    for way in ways:
        name = "_".join(way.values())
        config = EvaluateConfig.model_validate(
            {"checkpoint": str(checkpoint), "split": "val", "precision": "32-true", **way}
        )
        results.append(way | evaluate(config, run_folder(settings, f"evaluated_{name}")))
        keep({"results": results})
