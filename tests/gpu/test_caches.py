"""Every cache setting keeps the scores and takes the predicted bytes, and a cached validation epoch is fast"""

import pytest

from benchmarks.validation.cache_settings import compare_cache_settings
from benchmarks.validation.speed import time_validation
from ocr.command_line import prepare_hydra

pytestmark = pytest.mark.gpu

MAX_HMEAN_DIFFERENCE = 0.0005
"""Difference between an evaluation with and without the cache."""
MAX_EPOCH_SECONDS = 1.5
"""A validation epoch of 404 images (ResNet-18, 640 x 640) on a GPU, from epoch 1."""


def test_a_cached_validation_epoch_is_fast(on_cpu, tmp_path, record):
    prepare_hydra()
    small = ["synthetic.num_val=12", "synthetic.num_train=4", "pipeline.image_size=256", "model.fpn_channels=32"]
    speed = time_validation(
        [
            f"dataset_base_path={tmp_path}",
            "model.backbone.weights=null",
            f"device={'cpu' if on_cpu else 'gpu'}",
            *(["trainer.max_epochs=2", *small] if on_cpu else ["trainer.max_epochs=4"]),
            *([] if on_cpu else ["dataloader.eval_batch_size=16"]),
        ]
    )
    first, *cached = (epoch["val_seconds"] for epoch in speed["epochs"])
    record("bare forward pass", speed["bare_forward_seconds"][1:], "s")
    record("epoch 0", first, "s")
    record("slowest epoch from the cache", max(cached), "s", at_most=None if on_cpu else MAX_EPOCH_SECONDS)


def test_no_cache_setting_changes_the_scores(trained_checkpoint, learnable_set, record):
    """One checkpoint is evaluated twice with each setting, the second time from the cache."""
    compared = compare_cache_settings(trained_checkpoint, learnable_set, with_two_processes=False)
    rows = compared["rows"]
    plain = rows.pop("no cache")[0]["hmean"]
    record("hmean without a cache", plain)
    assert plain > 0, "two zeros would agree too"
    for setting, passes in rows.items():
        for scores, which in zip(passes, ("filling", "cached"), strict=True):
            difference = abs(scores["hmean"] - plain)
            record(f"{setting}: hmean difference, {which}", difference, at_most=MAX_HMEAN_DIFFERENCE)
    for setting, num_bytes in compared["bytes"].items():
        record(f"{setting}: bytes taken", num_bytes["taken"], equals=num_bytes["predicted"])
