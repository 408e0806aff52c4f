"""A training step learns, and never waits for the device."""

import gc

import lightning
import numpy as np
import pytest
import torch

from ocr.config import TrainConfig
from ocr.datasets.manifest import Manifest
from ocr.datasets.plan import EpochPlan
from ocr.loaders.engines import Engine
from ocr.loaders.loader import BatchLoader
from ocr.losses.db_loss import DBLoss
from ocr.models.dbnet import build_dbnet
from ocr.splits import build_dataset
from ocr.training.callbacks.moving_average import Average
from ocr.training.fit import train
from ocr.training.host_sync import ForbidHostSync
from ocr.training.module import DBNetModule
from ocr.training.network import forward_maps
from ocr.training.optimizer import build_optimizer

CPU = torch.device("cpu")


def make_loader(config: TrainConfig, device: torch.device) -> BatchLoader:
    dataset = build_dataset(config.datasets.split("train"), config, training=True)
    return BatchLoader(dataset, Engine("dali", device), batch_size=2)


def training_step(model, loss, optimizer, batch) -> torch.Tensor:
    maps = forward_maps(model, batch.images, channels_last=False)  # on a GPU the loader gives float16
    total = loss(maps, batch.targets).total
    total.backward()
    optimizer.step()
    optimizer.zero_grad()
    return total


def test_the_training_step_never_waits_for_the_device_under_the_trainer(tiny_run, tmp_path, monkeypatch):
    """The real step, logging included, in a real run."""
    original = DBNetModule.training_step
    steps = []

    def guarded(self, batch, batch_idx):
        steps.append(batch_idx)
        with ForbidHostSync():
            return original(self, batch, batch_idx)

    monkeypatch.setattr(DBNetModule, "training_step", guarded)
    train(tiny_run("trainer.max_epochs=1", "trainer.limit_train_batches=3"), tmp_path)
    assert steps == [0, 1, 2]


def test_training_lowers_the_loss_and_never_waits_for_the_device(tiny_run):
    config = tiny_run()
    torch.manual_seed(0)
    model = build_dbnet(config.model, 1).train()
    loss, optimizer = DBLoss(config.loss), build_optimizer(model, config.optimizer)
    (batch, *_) = make_loader(config, CPU)
    with ForbidHostSync():
        loss(model(batch.images), batch.targets).total.backward()
    optimizer.zero_grad()
    losses = [training_step(model, loss, optimizer, batch).item() for _ in range(20)]
    assert losses[-1] < 0.8 * losses[0]


def test_the_gradient_is_clipped_to_the_norm_of_the_settings(tiny_run, tmp_path):
    class Watch(lightning.Callback):
        def on_train_start(self, trainer, pl_module):
            self.before = [parameter.detach().clone() for parameter in pl_module.parameters()]

        def on_train_batch_end(self, trainer, pl_module, *args):
            changes = zip(pl_module.parameters(), self.before, strict=True)
            self.step = torch.cat([(after - before).detach().flatten() for after, before in changes])

    watch = Watch()
    plain = ("name=sgd", "momentum=0", "weight_decay=0", "schedule=constant", "warmup_fraction=0", "lr=0.5")
    limits = ("gradient_clip_val=0.02", "max_epochs=1", "limit_train_batches=1")
    settings = [*(f"optimizer.{setting}" for setting in plain), *(f"trainer.{setting}" for setting in limits)]
    train(tiny_run(*settings), tmp_path, callbacks=[watch])
    assert float(watch.step.norm()) == pytest.approx(0.5 * 0.02, rel=1e-2)


def test_the_loss_of_a_validation_is_the_mean_over_its_images(tiny_run):
    config = tiny_run()
    dataset = build_dataset(config.datasets.split("val"), config, training=False)
    loader = BatchLoader(dataset, Engine("dali", CPU), batch_size=3, with_targets=True)
    torch.manual_seed(0)
    module, losses = DBNetModule(build_dbnet(config.model, 1), config, dataset.manifest), []
    module.loss.register_forward_hook(lambda loss, arguments, result: losses.append(float(result.total)))
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    (scores,) = trainer.validate(module, dataloaders=loader, verbose=False)
    loader.close()
    assert len(dataset) == 8
    assert scores["val/loss"] == pytest.approx(np.average(losses, weights=[3, 3, 2]))
    assert scores["val/loss"] != pytest.approx(np.mean(losses))


def test_each_epoch_has_its_own_order_and_augmentation(tiny_run, tmp_path):
    class Watch(lightning.Callback):
        def on_train_start(self, trainer, pl_module):
            self.seen = {0: [], 1: []}

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            matrices = batch.samples.input_from_original
            self.seen[trainer.current_epoch] += zip(batch.samples.indices.tolist(), matrices.tolist(), strict=True)

    config, watch = tiny_run("trainer.limit_val_batches=1"), Watch()
    train(config, tmp_path, callbacks=[watch])
    dataset = build_dataset(config.datasets.split("train"), config, training=True)
    for epoch, seen in watch.seen.items():
        plan = EpochPlan(dataset.manifest, dataset.planner, epoch=epoch, batch_size=len(dataset))
        samples = plan.batch(0)
        assert seen == list(zip(samples.indices.tolist(), samples.input_from_original.tolist(), strict=True))


def test_the_guard_against_host_syncs_can_fail():
    with pytest.raises(AssertionError, match="host sync"), ForbidHostSync():
        torch.ones(3).sum().item()


@pytest.mark.gpu
def test_a_training_step_on_the_gpu_never_syncs(tiny_run):
    config, device = tiny_run(), torch.device("cuda", 0)
    model = build_dbnet(config.model, 1).train().to(device)
    loss, optimizer = DBLoss(config.loss), build_optimizer(model, config.optimizer)
    batches = list(make_loader(config, device))
    training_step(model, loss, optimizer, batches[0])
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches[1:]:
            training_step(model, loss, optimizer, batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_average_of_the_weights_has_no_second_manifest(tiny_run):
    config = tiny_run()
    dataset = build_dataset(config.datasets.split("val"), config, training=False)
    module = DBNetModule(build_dbnet(config.model, 1), config, dataset.manifest)
    before = manifests()  # those of other tests may live on
    average = Average(module, CPU, decay=0.9)
    assert average.module.model is not module.model
    known = set(map(id, before))
    assert [found for found in manifests() if id(found) not in known] == []


def manifests() -> list[Manifest]:
    return [found for found in gc.get_objects() if type(found) is Manifest]
