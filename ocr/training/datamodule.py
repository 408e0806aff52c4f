"""The Lightning data module: one restartable loader per split, sharded by the trainer's rank, within the planned memory."""

import logging
from typing import Any, Literal

import lightning
import torch

from dali_pipelines import memory
from ocr.datasets.base import ValidatedOCRDataset
from ocr.device import resolve_loading
from ocr.loaders.config import DataLoaderConfig
from ocr.loaders.engines import Engine
from ocr.loaders.loader import BatchLoader
from ocr.memory.plan import MemoryPlan, NetworkMemory, StepMemory
from ocr.memory.planner import PlannedMemory, RunData, plan_memory, preload_images
from ocr.memory.remedies import remedy_text, training_remedies
from ocr.training.ranks import num_ranks_of_node
from ocr.training.resume import data_fingerprint
from ocr.training.trainer_parts import cache_bytes_by_tier, dbnet_module, gather_from_ranks
from ocr.training.trial_step import measure_network

log = logging.getLogger(__name__)


class DBNetDataModule(lightning.LightningDataModule):
    """Gives Lightning its loaders. They shard by themselves: use_distributed_sampler must be off.

    Args:
        train, val: audited data sets; None where the split is not used.
        config: batch sizes and workers.
        loader: what reads and decodes the images.
        val_targets: make target maps for the validation split too.
        num_evaluated: images of the validation split that an interrupted evaluation has done, a multiple of its batch size.
    """

    def __init__(
        self,
        train: ValidatedOCRDataset | None,
        val: ValidatedOCRDataset | None,
        config: DataLoaderConfig,
        *,
        loader: Literal["dali", "torch"],
        val_targets: bool = False,
        num_evaluated: int = 0,
    ) -> None:
        super().__init__()
        self.train = train
        self.val = val
        self.config = config
        self.loader = loader
        self.val_targets = val_targets
        self.num_evaluated = num_evaluated
        self.evaluation_failures: dict[str, str] = {}
        """Reason for each file that failed during evaluation."""
        self.memory: MemoryPlan | None = None
        """Plan of this rank; None before `setup`."""
        self._planned: PlannedMemory | None = None
        self._loaders: dict[str, BatchLoader] = {}
        self._train_state: dict[str, int] | None = None
        self._known_data: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """Returns the position of the training loader, for checkpoints.

        Lightning saves the states of loaders too, but loses them on loading once the schedule has read the number of steps.
        """
        train = self._loaders["train"].state_dict() if "train" in self._loaders else None
        return {"train": train, "data": self._fingerprints()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._train_state = state_dict["train"]

    def setup(self, stage: str) -> None:
        """Plans the memory and logs the plan, then allocates DALI's pools and preloads images. Once per run.

        A training run measures its network first; an evaluation plans its caches only.
        """
        if self._planned is not None:
            return
        trainer, device = self._trainer(), self._device()
        if self.val is not None:
            self.config = resolve_loading(self.config, self.val.planner.config.image_size, device)
            # The GPUs of a machine may differ in memory, but its ranks meet in each validation batch.
            smallest = min(gather_from_ranks(trainer, self.config.eval_batch_size))
            self.config = self.config.model_copy(update={"eval_batch_size": smallest})
        # Memory of an earlier run in this process would count as taken, and then be freed by the trial step.
        memory.release_unused(device)
        plan = self.memory = MemoryPlan.of_free_memory(device, num_ranks_of_node())
        data = self._data()
        network, steps = self._measure_network(data.batch_sizes()) if stage == "fit" else (None, None)
        self._planned = plan_memory(plan, data, network, steps)
        if plan.rows and trainer.is_global_zero:
            log.info("\n%s", plan.table())
        if plan.fits:
            memory.preallocate(list(self._planned.pools), device)
        elif stage == "fit" and trainer.is_global_zero:
            config = dbnet_module(trainer.lightning_module).config
            log.warning(
                "The GPU has too little free memory for the network and DALI, even without caches. This is an estimate; "
                "continuing.\n%s",
                remedy_text(training_remedies(config, None, in_validation=False)),
            )
        for preload in self._planned.preloads:
            preload_images(preload)

    @property
    def cache_bytes(self) -> dict[str, int]:
        """Bytes that the caches hold now, by tier: gpu, ram, disk."""
        return cache_bytes_by_tier(self._loaders.values())

    def train_dataloader(self) -> BatchLoader:
        loader = self._loader("train", self.train, self.config.batch_size)
        loader.num_epochs = self._trainer().max_epochs or 0
        if self._train_state is not None:
            loader.load_state_dict(self._train_state)
        return loader

    def val_dataloader(self) -> BatchLoader:
        loader = self._loader("val", self.val, self.config.eval_batch_size)
        self.evaluation_failures = loader.failures
        if loader.dataset.config.prenormalize_images:
            loader.fill_cache()
        if self.num_evaluated:
            loader.load_state_dict({"epoch": loader.epoch, "samples": self.num_evaluated})
        return loader

    def predict_dataloader(self) -> BatchLoader:
        return self.val_dataloader()

    def teardown(self, stage: str) -> None:
        for loader in self._loaders.values():
            loader.close()
        self._loaders.clear()
        if self.trainer is not None:
            memory.release_unused(self._device())

    def _fingerprints(self) -> dict[str, Any]:
        """Returns the fingerprint of each split, by which a resumed run knows its data."""
        if not self._known_data:
            splits = {"train": self.train, "val": self.val}
            self._known_data = {name: data_fingerprint(split.manifest) for name, split in splits.items() if split}
        return self._known_data

    def _trainer(self) -> lightning.Trainer:
        if self.trainer is None:
            raise RuntimeError("this data module needs a trainer, which knows the device and the rank")
        return self.trainer

    def _device(self) -> torch.device:
        return self._trainer().strategy.root_device

    def _measure_network(self, batch_sizes: tuple[int, int]) -> tuple[NetworkMemory, StepMemory | None]:
        trainer = self._trainer()
        module = dbnet_module(trainer.lightning_module)
        return measure_network(
            module.model,
            module.config,
            precision=str(trainer.precision),
            device=self._device(),
            batch_sizes=batch_sizes,
            num_ranks=trainer.world_size,
        )

    def _data(self) -> RunData:
        trainer = self._trainer()
        return RunData(
            self.train,
            self.val,
            self.config,
            self.loader,
            self.val_targets,
            self._device(),
            trainer.global_rank,
            trainer.world_size,
        )

    def _loader(self, name: str, dataset: ValidatedOCRDataset | None, batch_size: int) -> BatchLoader:
        if dataset is None:
            raise ValueError(f"the trainer needs the {name} split, which this data module was built without")
        trainer = self._trainer()
        skip_failures = dataset.config.on_bad_sample != "error"
        self._loaders[name] = BatchLoader(
            dataset,
            Engine(self.loader, self._device(), self.config.num_workers, skip_failures, self.config.worker_timeout),
            batch_size,
            rank=trainer.global_rank,
            num_ranks=trainer.world_size,
            with_targets=name == "train" or self.val_targets,
            tiers=self._planned.val_tiers if name == "val" and self._planned is not None else None,
        )
        return self._loaders[name]
