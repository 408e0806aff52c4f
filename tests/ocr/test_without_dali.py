"""Where NVIDIA DALI cannot be imported, training, evaluation and prediction work with PyTorch's loader."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path


class NoDali(MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname.startswith("nvidia.dali"):
            raise ModuleNotFoundError(f"No module named {fullname!r}")


sys.meta_path.insert(0, NoDali())
data, checkpoint = sys.argv[1:]

from ocr import TextDetector
from ocr.command_line import compose_config
from ocr.config import EvaluateConfig, PredictConfig, TrainConfig
from ocr.errors import InputError
from ocr.inference import evaluate, predict
from ocr.training.fit import train

tiny = [
    "data=upstage",
    f"dataset_base_path={data}",
    "device=cpu",
    "pipeline.image_size=96",
    "pipeline.augmentation.crop_size=96",
    "dataloader.num_workers=0",
    "model.backbone.name=mobilenetv3_small_050",
    "model.backbone.weights=null",
    "model.fpn_channels=16",
    "trainer.max_epochs=1",
    "trainer.limit_train_batches=1",
    "trainer.precision=32-true",
    "logger.tensorboard=false",
    "logger.num_pictures=0",
]
try:
    train(compose_config(TrainConfig, "train", tiny), Path("refused"))
except InputError as error:
    print(error)
train(compose_config(TrainConfig, "train", [*tiny, "loader=torch"]), Path("run"))
given = ["checkpoint=run/checkpoints/last.ckpt", "split=val", "device=cpu"]
evaluate(compose_config(EvaluateConfig, "evaluate", given), Path("evaluated"))
images = f"{data}/images/val"
given = [f"checkpoint={checkpoint}", f"images={images}", "output=found", "draw=false", "device=cpu"]
predict(compose_config(PredictConfig, "predict", given), Path("predicted"))
assert not [name for name in sys.modules if name.startswith("nvidia.dali")]
"""


@pytest.fixture(scope="module")
def output(drawn: Path, untrained_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder in which the program ran, and what it printed."""
    folder = tmp_path_factory.mktemp("without_dali")
    command = [sys.executable, "-c", PROGRAM, str(drawn), str(untrained_checkpoint)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_the_default_loader_says_in_one_line_why_it_cannot_run(output: tuple[Path, str]) -> None:
    folder, printed = output
    (line,) = printed.splitlines()
    assert line.startswith(
        "loader=dali needs NVIDIA DALI, and this Python cannot import it (No module named 'nvidia.dali')"
    )
    assert "use loader=torch" in line
    assert not (folder / "refused" / "audit_train.json").exists()


def test_a_run_with_loader_torch_trains_and_evaluates(output: tuple[Path, str]) -> None:
    folder, _ = output
    summary = json.loads((folder / "run/summary.json").read_text())
    assert len(summary["epochs"]) == 1
    assert summary["versions"]["nvidia-dali"] is None
    assert json.loads((folder / "evaluated/metrics.json").read_text())["images"] == 8


def test_a_checkpoint_trained_with_dali_predicts(output: tuple[Path, str], drawn: Path) -> None:
    folder, _ = output
    images = json.loads((folder / "found/predictions.json").read_text())["images"]
    assert sorted(images) == sorted(path.name for path in (drawn / "images/val").iterdir())
