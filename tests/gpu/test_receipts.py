"""Eight minutes of training on real receipts"""

import pytest

from ocr.command_line import compose_config, prepare_hydra
from ocr.config import TrainConfig
from ocr.training.fit import train
from ocr.training.scores import STRICT_IOU

MIN_HMEAN = {0.5: 0.94, STRICT_IOU: 0.80}
"""By IoU, in the best epoch, on one H200."""


@pytest.mark.gpu
def test_receipts_are_learned(request, on_cpu, check_folder, record):
    if not request.config.getoption("--check-receipts", default=False):
        pytest.skip("scripts/gpu_check.sh --receipts --data FOLDER trains on real receipts")
    prepare_hydra()
    overrides = [
        "data=upstage",
        f"dataset_base_path={request.config.getoption('--check-data')}",
        "experiment=receipts_cpu" if on_cpu else "experiment=receipts",
        "trainer.max_time=00:00:08:00",
        f"device={'cpu' if on_cpu else 'gpu'}",
    ]
    summary = train(compose_config(TrainConfig, "train", overrides), check_folder / "receipts")
    epochs = [epoch for epoch in summary["epochs"] if epoch.get("hmean") is not None]
    best = max(epochs, key=lambda epoch: epoch["hmean"])
    for iou, key in ((0.5, "hmean"), (STRICT_IOU, f"hmean_iou{STRICT_IOU}")):
        record(f"hmean at IoU {iou}", best[key], at_least=None if on_cpu else MIN_HMEAN[iou])
