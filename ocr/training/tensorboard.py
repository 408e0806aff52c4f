"""TensorBoard's logger, with one event for all scalars of a step, and the settings of the run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from torch.utils.tensorboard.summary import hparams

from ocr.atomic_write import explained_write
from ocr.config import flat_keys


class ScalarEvents(TensorBoardLogger):
    """Writes all scalars of a call as one event. Lightning's own class passes an event for each to the writing thread.

    Raises:
        StorageError: an event cannot be written.
    """

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        values = [Summary.Value(tag=name, simple_value=float(value)) for name, value in metrics.items()]
        with explained_write(Path(self.log_dir) / "events"):  # also an error of an earlier event, which a thread wrote
            self.experiment._get_file_writer().add_summary(Summary(value=values), step)

    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, Any], *_: Any, **__: Any) -> None:  # type: ignore[override]
        """Writes the settings for TensorBoard's page HPARAMS, beside val/hmean. Lightning's method also logs a made-up score.

        Args:
            params: nested settings.
        """
        settings = flat_keys(dict(params)).items()
        values = {key: value if isinstance(value, bool | int | float) else str(value) for key, value in settings}
        with explained_write(Path(self.log_dir) / "events"):
            for summary in hparams(values, {"val/hmean": 0.0}):  # the metric's name only; its values are scalars
                self.experiment._get_file_writer().add_summary(summary)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        with explained_write(Path(self.log_dir) / "events"):
            super().finalize(status)
