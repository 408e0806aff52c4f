import logging
from pathlib import Path

import pytest
import torch

from ocr.config import ExportConfig, TrainConfig
from ocr.datasets.schemas import DatasetConfig
from ocr.errors import InputError
from ocr.export import run
from ocr.export.check import Comparison, Pictures, calibration_pictures, choose_pictures, compare
from ocr.models.dbnet import build_dbnet
from ocr.splits import build_dataset
from tests.splits import split


@pytest.fixture(scope="module")
def settings() -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "pipeline": {"image_size": 96, "output_dtype": "float32"},
            "model": {"fpn_channels": 16, "backbone": {"name": "test_resnet", "weights": None}},
            "loader": "torch",
        }
    )


def two_sets(drawn: Path, settings: TrainConfig, limit: int) -> Pictures:
    """Pictures of a set of 8 images, taken twice under two names."""
    one = split(drawn, "val")["config"]
    both = DatasetConfig.model_validate(
        {"image_path": "", "sets": [{"name": name, **one} for name in ("receipts", "scenes")]}
    )
    return Pictures(build_dataset(both, settings, training=False), True, limit)


@pytest.mark.parametrize(("limit", "positions"), [(3, [0, 8, 15]), (1, [0]), (99, list(range(16)))])
def test_pictures_are_spread_evenly_over_all_sets(drawn, settings, limit, positions):
    pictures = two_sets(drawn, settings, limit)
    assert [int(index) for batch in pictures.batches() for index in batch.samples.indices] == positions
    assert pictures.number == len(positions)


def test_each_of_several_sets_is_compared(drawn, settings):
    torch.manual_seed(0)
    model = build_dbnet(settings.model, settings.targets.map_stride).eval()
    found = compare(model, model, settings, two_sets(drawn, settings, 4))
    assert found.largest_difference == 0
    assert list(found.hmean_of_sets) == ["receipts", "scenes"]
    assert found.hmean_torch == found.hmean_exported


def test_the_log_names_the_folders_of_all_sets(drawn, settings, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    sets = {"config": [{"name": name, **split(drawn, "val")["config"]} for name in ("receipts", "scenes")]}
    config = ExportConfig.model_validate(
        {"checkpoint": "a.ckpt", "output": "a.onnx", "datasets": {"val_dataset": sets, "train_dataset": sets}}
    )
    calibration_pictures(config, settings, choose_pictures(config, settings, tmp_path))
    folders = f"{drawn / 'images/val'}, {drawn / 'images/val'}"
    assert f"checking on the validation set, {folders}" in caplog.messages
    assert f"calibrating on training pictures, {folders}" in caplog.messages


@pytest.mark.parametrize(
    ("precision", "found", "message"),
    [
        ("float32", Comparison(1, 0.0011, None, None, {}), "differ from PyTorch's by 0.0011, expected at most 0.001"),
        ("float32", Comparison(1, float("nan"), None, None, {}), "differ from PyTorch's by nan"),
        ("float16", Comparison(1, float("inf"), None, None, {}), "differ from PyTorch's by inf, expected at most 1"),
        (
            "float16",
            Comparison(1, 0.1, 0.5, 0.5, {"receipts": (0.5, 0.4)}),
            r"hmean of receipts 0\.4000, PyTorch's is 0\.5",
        ),
        ("float16", Comparison(1, 0.1, 0.5, 0.4, {}), r"hmean 0\.4000, PyTorch's is 0\.5000; a loss of at most 0\.002"),
    ],
)
def test_a_file_that_differs_too_much_is_not_written(
    untrained_checkpoint, drawn, tmp_path, monkeypatch, precision, found, message
):
    monkeypatch.setattr(run, "compare", lambda *_: found)
    output = tmp_path / "weights.safetensors"
    settings = {"checkpoint": str(untrained_checkpoint), "output": str(output), "images": str(drawn / "images/val")}
    with pytest.raises(InputError, match=message):
        run.export(ExportConfig(**settings, format="safetensors", precision=precision))
    assert not output.exists()
