"""The Lightning data module: one restartable loader a split, sharded by the trainer's rank."""

from typing import Any

import lightning
import torch

from ocr.config import DataLoaderConfig, LoaderName
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.loader import Batch, BatchLoader


class DBNetDataModule(lightning.LightningDataModule):
    """Hands Lightning its loaders. They shard by themselves: use_distributed_sampler must be off.

    Args:
        train, val: audited data sets; None where the split is not used.
        config: batch sizes and workers.
        loader: dali or torch.
    """

    def __init__(
        self,
        train: ValidatedOCRDataset | None,
        val: ValidatedOCRDataset | None,
        config: DataLoaderConfig,
        *,
        loader: LoaderName,
    ) -> None:
        super().__init__()
        self.train = train
        self.val = val
        self.config = config
        self.loader = loader
        self.evaluation_failures: dict[str, str] = {}
        """Reason for each file that failed while it was evaluated."""
        self._train_loader: BatchLoader | None = None
        self._train_state: dict[str, int] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Where the training loader is. Lightning saves this in checkpoints; the states it keeps of loaders themselves are
        lost on loading once the schedule has asked it for the number of steps."""
        return {"train": self._train_loader.state_dict() if self._train_loader else None}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._train_state = state_dict["train"]

    def train_dataloader(self) -> BatchLoader:
        self._train_loader = self._loader(self.train, self.config.batch_size)
        if self._train_state is not None:
            self._train_loader.load_state_dict(self._train_state)
        return self._train_loader

    def val_dataloader(self) -> BatchLoader:
        loader = self._loader(self.val, self.config.eval_batch_size)
        self.evaluation_failures = loader.failures
        return loader

    def predict_dataloader(self) -> BatchLoader:
        return self.val_dataloader()

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch  # made on the device

    def _loader(self, dataset: ValidatedOCRDataset | None, batch_size: int) -> BatchLoader:
        if dataset is None:
            raise ValueError("this data module was built without the split that the trainer asks for")
        if self.trainer is None:
            raise RuntimeError("a trainer must have this data module: it knows the device and the rank")
        return BatchLoader(
            dataset,
            loader=self.loader,
            batch_size=batch_size,
            num_workers=self.config.num_workers,
            device=self.trainer.strategy.root_device,
            rank=self.trainer.global_rank,
            num_ranks=self.trainer.world_size,
            skip_failures=dataset.config.on_bad_sample != "error",
        )
