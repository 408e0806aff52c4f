"""Real runs on a tiny drawn data set: what they write, resuming, and that a step never waits for the device."""

import json
import re
from pathlib import Path

import lightning
import pytest
import torch

from ocr.checkpoint import CONFIG_KEY, load_checkpoint
from ocr.config import EvaluateConfig, TrainConfig
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.plan import SamplePlanner
from ocr.errors import OutOfMemory
from ocr.inference import evaluate
from ocr.loaders.engines import Engine
from ocr.loaders.loader import BatchLoader
from ocr.losses.db_loss import DBLoss
from ocr.models.dbnet import build_dbnet
from ocr.training.fit import train
from ocr.training.host_sync import ForbidHostSync
from ocr.training.module import DBNetModule
from ocr.training.network import forward_maps
from ocr.training.optimizer import build_optimizer


@pytest.fixture(scope="module")
def drawn_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from ocr.synthetic import SyntheticConfig, draw_data_set

    root = tmp_path_factory.mktemp("data") / "synthetic"
    return draw_data_set(SyntheticConfig(num_train=10, num_val=3), root, num_workers=1)


def make_config(root: Path, **sections) -> TrainConfig:
    splits = {
        f"{name}_dataset": {
            "config": {
                "image_path": str(root / "images" / name),
                "annotation_path": str(root / "jsons" / f"{name}.json"),
            }
        }
        for name in ("train", "val")
    }
    trainer = {"max_epochs": 2, "precision": "32-true", "log_every_n_steps": 1} | sections.pop("trainer", {})
    return TrainConfig.model_validate(
        {
            "device": "cpu",
            "datasets": splits,
            "pipeline": {"image_size": 128},
            "dataloader": {"batch_size": 2, "eval_batch_size": 2, "num_workers": 0},
            "model": {"backbone": {"weights": None}, "fpn_channels": 16},
            "trainer": trainer,
        }
        | sections
    )


@pytest.fixture(scope="module")
def finished_run(drawn_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("run")
    train(make_config(drawn_set), run_dir)
    return run_dir


def test_a_run_writes_all_its_files(finished_run):
    for name in (
        "config.yaml",
        "metrics.csv",
        "summary.json",
        "predictions.json",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
    ):
        assert (finished_run / name).is_file(), name
    assert list(finished_run.glob("tensorboard/events.out.*"))
    assert len(list((finished_run / "pictures").glob("*.jpg"))) == 3


def test_the_summary_has_the_promised_keys(finished_run):
    summary = json.loads((finished_run / "summary.json").read_text())
    assert {
        "hmean",
        "precision",
        "recall",
        "epochs",
        "device",
        "versions",
        "git_commit",
        "config_sha256",
    } <= summary.keys()
    assert [epoch["epoch"] for epoch in summary["epochs"]] == [0, 1]
    for epoch in summary["epochs"]:
        assert {
            "train_seconds",
            "train_data_wait_seconds",
            "val_seconds",
            "val_data_wait_seconds",
            "val_forward_seconds",
            "val_postprocess_seconds",
            "val_metric_seconds",
            "train_images_per_second",
            "cache_hits",
            "cache_misses",
            "cache_bytes",
        } <= epoch.keys()
        assert 0 < epoch["train_data_wait_seconds"] < epoch["train_seconds"]
        assert 0 < epoch["val_forward_seconds"] < epoch["val_seconds"]
        assert epoch["train_images_per_second"] == pytest.approx(10 / epoch["train_seconds"])


def test_the_summary_has_the_memory_plan(finished_run):
    plan = json.loads((finished_run / "summary.json").read_text())["memory_plan"]
    planned = {(row["what"], row["where"]): row["predicted_bytes"] for row in plan["rows"]}
    assert planned["validation: 3 finished inputs", "RAM"] == 3 * (2 * 3 + 3 + 2) * 128 * 128
    assert planned["network: optimizer state", "RAM"] == 2 * planned["network: gradients", "RAM"] > 0
    assert {what for what, _ in planned} >= {"DALI: training pipeline", "DALI: validation pipeline"}
    assert plan["predicted_gpu_peak_bytes"] is None
    assert plan["measured_gpu_peak_bytes"] is None


def test_memory_that_runs_out_in_training_ends_in_what_to_change(drawn_set, tmp_path):
    class Greedy(lightning.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.current_epoch == 1:
                torch.empty(2**50)

    with pytest.raises(OutOfMemory) as caught:
        train(make_config(drawn_set), tmp_path, [Greedy()])
    first, *held, with_half, half, with_less, less = str(caught.value).splitlines()
    assert re.fullmatch(
        r"RAM ran out in training, epoch 2: torch asked for 4,503,599,627 MB, [\d,]+ MB of [\d,]+ MB were free\.", first
    )
    assert re.fullmatch(r"  this process: [\d,]+ MB, of that [1-9]\d* MB caches", held[0])
    assert with_half == "To run it with half the batch, from the last checkpoint on:"
    assert half == f"  dataloader.batch_size=1 resume={tmp_path}/checkpoints/last.ckpt"
    assert with_less == "If that is not enough, with less in the caches too:"
    assert less == f"  dataloader.batch_size=1 performance=constrained resume={tmp_path}/checkpoints/last.ckpt"
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()
    assert len(json.loads((tmp_path / "summary.json").read_text())["epochs"]) == 1


def test_memory_that_runs_out_in_validation_names_its_batch(drawn_set, tmp_path):
    class Greedy(lightning.Callback):
        def on_validation_batch_start(self, *args, **kwargs):
            bytearray(2**60)

    with pytest.raises(OutOfMemory) as caught:
        train(make_config(drawn_set, trainer={"limit_train_batches": 1}), tmp_path, [Greedy()])
    assert str(caught.value).startswith("RAM ran out in validation, epoch 1: Python asked for more than there was")
    assert "  dataloader.eval_batch_size=1\n" in str(caught.value)
    assert json.loads((tmp_path / "summary.json").read_text())["memory_plan"]["rows"]


def test_memory_that_runs_out_in_an_evaluation_names_its_batch(finished_run, tmp_path):
    # Some 40 TB for an image: torch fails to allocate them, within DALI.
    config = EvaluateConfig(
        checkpoint=str(finished_run / "checkpoints" / "last.ckpt"), device="cpu", split="val", image_size=1 << 22
    )
    with pytest.raises(OutOfMemory) as caught:
        evaluate(config, tmp_path)
    first, *_, why, remedy = str(caught.value).splitlines()
    assert re.match(r"RAM ran out in validation: torch asked for \d\d,\d{3},\d{3} MB, ", first)
    assert (why, remedy) == ("To run it with half the batch:", "  batch_size=1")


@pytest.mark.gpu
@pytest.mark.parametrize("cached", [True, False])
def test_the_gpu_holds_no_more_than_planned(drawn_set, tmp_path, cached):
    config = make_config(drawn_set, device="gpu", trainer={"precision": "16-mixed", "max_epochs": 3})
    cache = {"cache_transformed_tensors": cached}
    values = config.model_dump(mode="json")
    values["datasets"]["val_dataset"]["config"]["cache_config"] |= cache
    plan = train(TrainConfig.model_validate(values), tmp_path)["memory_plan"]
    assert 0 < plan["measured_gpu_peak_bytes"] <= plan["predicted_gpu_peak_bytes"]


@pytest.mark.gpu
def test_the_gpu_is_given_back_after_training(drawn_set, tmp_path):
    config = make_config(drawn_set, device="gpu", trainer={"max_epochs": 1})
    train(config, tmp_path / "first")
    free = torch.cuda.mem_get_info()[0]
    train(config, tmp_path / "second")
    assert free - torch.cuda.mem_get_info()[0] < 50_000_000
    assert torch.cuda.memory_reserved() < 100_000_000


@pytest.mark.gpu
def test_gpu_memory_that_runs_out_names_its_holders(drawn_set, tmp_path):
    class Limit(lightning.Callback):
        def on_train_start(self, trainer, pl_module):
            allowed = torch.cuda.memory_reserved() + 500_000_000
            torch.cuda.set_per_process_memory_fraction(allowed / torch.cuda.mem_get_info()[1])

        def on_train_batch_start(self, *args, **kwargs):
            torch.empty(10**9, dtype=torch.uint8, device="cuda")

    try:
        with pytest.raises(OutOfMemory) as caught:
            train(make_config(drawn_set, device="gpu"), tmp_path, [Limit()])
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert str(caught.value).startswith("GPU memory ran out in training, epoch 1: torch asked for 1,000 MB")
    assert "DALI, CUDA itself and other programs: " in str(caught.value)
    assert "  dataloader.batch_size=1\n" in str(caught.value)


def test_training_and_validation_seconds_do_not_overlap(drawn_set, tmp_path):
    import time

    class Watch(lightning.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            self.started = time.perf_counter()

        def on_validation_batch_start(self, *args, **kwargs):
            time.sleep(0.2)

        def on_train_epoch_end(self, trainer, pl_module):
            self.seconds = time.perf_counter() - self.started

    watch = Watch()
    (epoch,) = train(make_config(drawn_set, trainer={"max_epochs": 1}), tmp_path, callbacks=[watch])["epochs"]
    assert epoch["val_seconds"] >= 0.4  # two batches
    assert epoch["train_seconds"] + epoch["val_seconds"] <= watch.seconds + 0.05


def test_a_checkpoint_carries_its_configuration_and_rebuilds_the_network(finished_run, drawn_set):
    config, model = load_checkpoint(finished_run / "checkpoints" / "last.ckpt")
    assert config == make_config(drawn_set)
    saved = torch.load(finished_run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(model.state_dict()["head.prob.0.0.weight"], saved["model.head.prob.0.0.weight"])


def test_files_that_are_no_checkpoints_are_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.ckpt"):
        load_checkpoint(tmp_path / "none.ckpt")
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    with pytest.raises(ValueError, match=r"text\.ckpt: not a readable checkpoint"):
        load_checkpoint(tmp_path / "text.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"other\.ckpt: no configuration"):
        load_checkpoint(tmp_path / "other.ckpt")


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    checkpoint = torch.load(path, weights_only=True)
    assert CONFIG_KEY in checkpoint
    return checkpoint["state_dict"]


def test_a_seeded_run_repeats_bit_for_bit(finished_run, drawn_set, tmp_path):
    train(make_config(drawn_set), tmp_path)
    first, second = (weights_of(run / "checkpoints" / "last.ckpt") for run in (finished_run, tmp_path))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_resumed_run_ends_as_the_uninterrupted_one(finished_run, drawn_set, tmp_path):
    """Stopped after the first epoch of two."""
    import lightning

    class StopAfterFirstEpoch(lightning.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.should_stop = True

    train(make_config(drawn_set), tmp_path / "stopped", callbacks=[StopAfterFirstEpoch()])
    resumed = make_config(drawn_set, resume=str(tmp_path / "stopped" / "checkpoints" / "last.ckpt"))
    train(resumed, tmp_path / "resumed")
    whole, rest = (weights_of(run / "checkpoints" / "last.ckpt") for run in (finished_run, tmp_path / "resumed"))
    assert all(torch.equal(whole[key], rest[key]) for key in whole)
    epochs = json.loads((tmp_path / "resumed" / "summary.json").read_text())["epochs"]
    assert [epoch["epoch"] for epoch in epochs] == [0, 1]


def test_a_run_stopped_in_the_middle_of_an_epoch_ends_as_the_uninterrupted_one(finished_run, drawn_set, tmp_path):
    import lightning

    checkpoint = tmp_path / "middle.ckpt"

    class StopInSecondEpoch(lightning.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.current_epoch == 1 and batch_idx == 1:  # 2 of 5 steps done
                trainer.save_checkpoint(checkpoint)
                raise KeyboardInterrupt

    with pytest.raises(SystemExit):
        train(make_config(drawn_set), tmp_path / "stopped", callbacks=[StopInSecondEpoch()])
    train(make_config(drawn_set, resume=str(checkpoint)), tmp_path / "resumed")
    whole, rest = (weights_of(run / "checkpoints" / "last.ckpt") for run in (finished_run, tmp_path / "resumed"))
    assert all(torch.equal(whole[key], rest[key]) for key in whole)


@pytest.mark.parametrize("checkpoint", ["best.ckpt", "last.ckpt"])
def test_a_run_that_validates_seldom_can_be_resumed_and_keeps_its_best(drawn_set, tmp_path, checkpoint):
    seldom = {"max_epochs": 3, "check_val_every_n_epoch": 2}
    train(make_config(drawn_set, trainer=seldom), tmp_path / "first")
    path = tmp_path / "first" / "checkpoints" / checkpoint
    longer = make_config(drawn_set, trainer=seldom | {"max_epochs": 5}, resume=str(path))
    summary = train(longer, tmp_path / "resumed")
    assert [epoch["epoch"] for epoch in summary["epochs"]] == [0, 1, 2, 3, 4]
    assert summary["epochs"][-1].get("hmean") is not None
    assert (tmp_path / "resumed" / "checkpoints" / "best.ckpt").is_file()


def test_a_run_stopped_by_the_clock_still_ends_with_a_score(drawn_set, tmp_path):
    config = make_config(
        drawn_set, trainer={"max_epochs": 1000, "max_time": "00:00:00:01", "check_val_every_n_epoch": 999}
    )
    summary = train(config, tmp_path)
    assert summary["hmean"] is not None
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()


def test_a_missing_checkpoint_to_resume_from_is_named_before_anything_else(drawn_set, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"resume=nowhere\.ckpt"):
        train(make_config(drawn_set, resume="nowhere.ckpt"), tmp_path)


def make_batches(root: Path, config: TrainConfig) -> BatchLoader:
    split = config.datasets.split("train")
    planner = SamplePlanner(config.pipeline, training=True, seed=0)
    dataset = ValidatedOCRDataset(split, planner, config.targets)
    return BatchLoader(dataset, Engine("dali", torch.device("cpu")), batch_size=2)


def training_step(model, loss, optimizer, batch) -> torch.Tensor:
    maps = forward_maps(model, batch.images, channels_last=False)  # on a GPU the loader gives float16
    total = loss(maps, batch.targets).total
    total.backward()
    optimizer.step()
    optimizer.zero_grad()
    return total


def test_a_training_step_asks_nothing_of_the_device(drawn_set):
    config = make_config(drawn_set)
    model = build_dbnet(config.model, 1).train()
    loss = DBLoss(config.loss)
    (batch, *_) = make_batches(drawn_set, config)
    with ForbidHostSync():
        maps = model(batch.images)
        loss(maps, batch.targets).total.backward()


def test_the_module_s_training_step_asks_nothing_of_the_device_under_the_trainer(drawn_set, tmp_path, monkeypatch):
    """The real step, logging included, in a real run."""
    original = DBNetModule.training_step
    num_steps = []

    def guarded(self, batch, batch_idx):
        num_steps.append(batch_idx)
        with ForbidHostSync():
            return original(self, batch, batch_idx)

    monkeypatch.setattr(DBNetModule, "training_step", guarded)
    train(make_config(drawn_set, trainer={"max_epochs": 1}), tmp_path)
    assert num_steps == [0, 1, 2, 3, 4]


def test_the_guard_against_host_syncs_can_fail():
    with pytest.raises(AssertionError, match="host sync"), ForbidHostSync():
        torch.ones(3).sum().item()


@pytest.mark.gpu
def test_a_training_step_on_the_gpu_never_syncs(drawn_set):
    config = make_config(drawn_set)
    device = torch.device("cuda", 0)
    model = build_dbnet(config.model, 1).train().to(device)
    loss, optimizer = DBLoss(config.loss), build_optimizer(model, config.optimizer)
    loader = make_batches(drawn_set, config)
    loader = BatchLoader(loader.dataset, Engine("dali", device), batch_size=2)
    batches = list(loader)
    training_step(model, loss, optimizer, batches[0])
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches[1:]:
            training_step(model, loss, optimizer, batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_training_lowers_the_loss(drawn_set):
    config = make_config(drawn_set)
    torch.manual_seed(0)
    model = build_dbnet(config.model, 1).train()
    loss, optimizer = DBLoss(config.loss), build_optimizer(model, config.optimizer)
    (batch, *_) = make_batches(drawn_set, config)
    losses = [training_step(model, loss, optimizer, batch).item() for _ in range(20)]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_fast_dev_run_finishes(drawn_set, tmp_path, ema_decay):
    config = make_config(drawn_set, trainer={"fast_dev_run": True, "ema_decay": ema_decay})
    train(config, tmp_path)
