"""What limits a run, in a line of words, from the figures of an epoch."""

from typing import Any

INPUT_BOUND = 0.2
"""Share of the training time spent waiting for data from which on the input is what limits it."""
LOW_HIT_RATE = 0.8
"""After the first epoch a cache that serves less than this is not worth its memory."""


def training_verdict(epoch: dict[str, Any]) -> str:
    """For example `input-bound: 62 % waiting for data; images 41 %, targets 21 %`."""
    seconds = max(epoch["train_seconds"], 1e-9)
    waiting = epoch["train_data_wait_seconds"] / seconds
    targets = epoch["train_target_seconds"] / seconds
    parts = f"{waiting:.0%} waiting for data"
    if waiting < INPUT_BOUND:
        return f"compute-bound: {parts}"
    return f"input-bound: {parts}; images {waiting - targets:.0%}, targets {targets:.0%}"


def validation_verdict(epoch: dict[str, Any]) -> str:
    """The share of each stage that the forward pass does not hide, largest first."""
    seconds = max(epoch["val_seconds"], 1e-9)
    shares = {
        "forward": epoch["val_forward_seconds"] / seconds,
        "waiting for data": epoch["val_data_wait_seconds"] / seconds,
        "post-processing on the device": epoch["val_device_postprocess_seconds"] / seconds,
        "waiting for post-processing and metric": epoch["val_blocked_seconds"] / seconds,
    }
    shares["everything else"] = max(1 - sum(shares.values()), 0.0)
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    return "validation: " + ", ".join(f"{name} {share:.0%}" for name, share in ordered if share >= 0.005)
