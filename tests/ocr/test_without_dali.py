"""Without NVIDIA DALI, and without what only Unix has, training, evaluation, prediction and export work with PyTorch's loader."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import json
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path


class NoDali(MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname.startswith("nvidia.dali"):
            raise ModuleNotFoundError(f"No module named {fullname!r}")


sys.meta_path.insert(0, NoDali())
data, checkpoint = sys.argv[1:]

# Other packages check the system by its name, so they are loaded before Windows is imitated.
from ocr.quick_imports import quick_imports

with quick_imports():
    import multiprocessing.util, os, signal, subprocess
    import cv2, hydra, lightning, numba, psutil, torch, torch.utils.data, torch.utils.tensorboard

# Nothing on these ways needs what Windows lacks.
opened, UNIX = os.open, ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog")
sys.modules.update(dict.fromkeys(UNIX))
for name in "fork register_at_fork getuid geteuid getgid sched_getaffinity pread preadv readv writev".split():
    delattr(os, name)
signals = {name: getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2", "SIGHUP", "SIGALRM", "SIGCHLD")}
for name in signals:
    delattr(signal, name)


def open_no_folder(path, *arguments, **keywords):
    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied", os.fspath(path))
    return opened(path, *arguments, **keywords)


os.open = open_no_folder

import pkgutil
from importlib import import_module

import ocr

for module in pkgutil.walk_packages(ocr.__path__, "ocr."):
    if module.name not in ("ocr.targets.triton_maps", "ocr.loaders.shards", "ocr.export.triton_client"):
        import_module(module.name)  # the others need Triton or DALI, or are a program
vars(signal).update(signals)  # Lightning uses them unless the system is named Windows

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
    "model.backbone.name=test_resnet",
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
found = TextDetector(checkpoint, device="cpu")(min(Path(images).iterdir()))
assert found.to_dict() == json.loads(Path("found/predictions.json").read_text())["images"][min(os.listdir(images))]
assert not [name for name in sys.modules if name.startswith("nvidia.dali")]
"""


@pytest.fixture(scope="module")
def output(drawn: Path, untrained_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder in which the program ran, and what it printed."""
    folder = tmp_path_factory.mktemp("without_dali")
    command = [sys.executable, "-c", PROGRAM, str(drawn), str(untrained_checkpoint)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=280, check=False)
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
