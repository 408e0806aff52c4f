"""Says what limits a run, from the figures of its epochs."""

import logging
from typing import Any

log = logging.getLogger(__name__)

INPUT_BOUND = 0.2
"""Share of the training time spent waiting for data at or above which the input limits the run."""


class VerdictLog:
    """Logs what limits training and validation: when it changes, in each input-bound epoch, and at the end of the run."""

    def __init__(self) -> None:
        self._last: dict[str, str] = {}
        """Limit of training and of validation, as last logged."""

    def log_epoch(self, epoch: dict[str, Any], *, is_last: bool) -> None:
        """Logs the verdicts of an epoch if there is something new to say."""
        limit, is_first = training_limit(epoch), not self._last
        if is_last or limit == "input-bound" or limit != self._last.get("training"):
            log.info("%s%s", training_verdict(epoch), ", including start-up" if is_first else "")
        self._last["training"] = limit
        if "val_seconds" in epoch:
            limit = next(iter(validation_shares(epoch)))
            if is_last or limit != self._last.get("validation"):
                log.info("%s", validation_verdict(epoch))
            self._last["validation"] = limit


def training_limit(epoch: dict[str, Any]) -> str:
    """Returns input-bound or compute-bound."""
    waiting = epoch["train_data_wait_seconds"] / max(epoch["train_seconds"], 1e-9)
    return "compute-bound" if waiting < INPUT_BOUND else "input-bound"


def training_verdict(epoch: dict[str, Any]) -> str:
    """Returns for example `training is input-bound: 62% of the time waiting for data (images 41%, targets 21%)`."""
    seconds = max(epoch["train_seconds"], 1e-9)
    waiting = epoch["train_data_wait_seconds"] / seconds
    # On a GPU, the host makes targets beside its work too, and waiting is what the device does.
    targets = min(epoch["train_target_seconds"] / seconds, waiting)
    limit = training_limit(epoch)
    parts = f" (images {waiting - targets:.0%}, targets {targets:.0%})" if limit == "input-bound" else ""
    return f"training is {limit}: {waiting:.0%} of the time waiting for data{parts}"


def validation_verdict(epoch: dict[str, Any]) -> str:
    """Returns the share of each stage that does not run beside another one, largest first."""
    shares = ", ".join(f"{name} {share:.0%}" for name, share in validation_shares(epoch).items() if share >= 0.005)
    return f"validation time: {shares}"


def validation_shares(epoch: dict[str, Any]) -> dict[str, float]:
    """Returns the share of the validation time by stage, largest first."""
    seconds = max(epoch["val_seconds"], 1e-9)
    shares = {
        "forward": epoch["val_forward_seconds"] / seconds,
        "waiting for data": epoch["val_data_wait_seconds"] / seconds,
        "post-processing on the device": epoch["val_device_postprocess_seconds"] / seconds,
        "waiting for post-processing and metric": epoch["val_blocked_seconds"] / seconds,
    }
    shares["everything else"] = max(1 - sum(shares.values()), 0.0)
    return dict(sorted(shares.items(), key=lambda item: -item[1]))
