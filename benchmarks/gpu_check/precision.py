"""Full and mixed precision side by side: the same budget, several seeds."""

from benchmarks.gpu_check.figures import Figures, Keep
from benchmarks.gpu_check.images import run_folder, training_config
from benchmarks.gpu_check.settings import CheckSettings
from ocr.training.fit import train


def measure(settings: CheckSettings, keep: Keep) -> None:
    precisions, seeds = (
        (("32-true", "bf16-mixed"), (42,)) if settings.cpu else (("32-true", "16-mixed", "bf16-mixed"), (1, 2, 3))
    )
    runs: list[Figures] = []
    for seed in seeds:  # the precisions take turns: a budget that ends early has seen them all
        for precision in precisions:
            config = training_config(
                settings,
                f"trainer.precision={precision}",
                f"seed={seed}",
                "trainer.val_loss=false",
                "trainer.check_val_every_n_epoch=1000",
                "logger.tensorboard=false",
            )
            summary = train(config, run_folder(settings, f"precision_{precision}_{seed}"))
            runs.append(
                {
                    "precision": precision,
                    "seed": seed,
                    "hmean": summary["hmean"],
                    "train_seconds": sum(epoch["train_seconds"] for epoch in summary["epochs"]),
                }
            )
            keep({"epochs": len(summary["epochs"]), "runs": runs})
