"""Real runs on the drawn data set: what they write, how they resume, and how they end when memory runs out."""

import json
import re
import shutil
import time
from pathlib import Path

import lightning
import pytest
import torch
import yaml

from ocr.checkpoint import CONFIG_KEY, PRECISION_KEY, load_checkpoint
from ocr.command_line import compose_config
from ocr.config import EvaluateConfig
from ocr.datasets.audit_report import BadDataError
from ocr.device import resolve_precision
from ocr.errors import OutOfMemory
from ocr.inference import evaluate
from ocr.training.fit import train
from ocr.training.ranks import Ranks
from ocr.training.resume import resumption

NUM_TRAIN, NUM_VAL = 10, 8


@pytest.fixture(scope="module")
def finished_run(tiny_run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("run")
    train(tiny_run("logger.tensorboard=true", "logger.num_pictures=3"), run_dir)
    return run_dir


def test_a_run_writes_all_its_files(finished_run):
    for name in (
        "config.yaml",
        "metrics.csv",
        "summary.json",
        "predictions.json",
        "audit_train.json",
        "audit_val.json",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
    ):
        assert (finished_run / name).is_file(), name
    assert list(finished_run.glob("tensorboard/events.out.*"))
    assert len(list((finished_run / "pictures").glob("*.jpg"))) == 3


def test_the_summary_has_the_promised_keys(finished_run):
    summary = json.loads((finished_run / "summary.json").read_text())
    promised = {"hmean", "precision", "recall", "epochs", "device", "versions", "git_commit", "config_sha256"}
    assert promised <= summary.keys()
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
        assert epoch["train_images_per_second"] == pytest.approx(NUM_TRAIN / epoch["train_seconds"])


def test_the_summary_has_the_memory_plan(finished_run):
    plan = json.loads((finished_run / "summary.json").read_text())["memory_plan"]
    planned = {(row["what"], row["where"]): row["predicted_bytes"] for row in plan["rows"]}
    assert planned["validation: tensor cache, 8 images", "RAM"] == NUM_VAL * (2 * 3 + 3 + 2) * 96 * 96
    assert planned["network: optimizer state", "RAM"] == 2 * planned["network: gradients", "RAM"] > 0
    assert {what for what, _ in planned} >= {"DALI: training pipeline", "DALI: validation pipeline"}
    assert plan["predicted_gpu_peak_bytes"] is None
    assert plan["measured_gpu_peak_bytes"] is None


def test_a_checkpoint_carries_its_configuration_and_rebuilds_the_network(finished_run, tiny_run):
    config, model = load_checkpoint(finished_run / "checkpoints" / "last.ckpt")
    assert config == tiny_run("logger.tensorboard=true", "logger.num_pictures=3")
    saved = torch.load(finished_run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(model.state_dict()["head.prob.0.0.weight"], saved["model.head.prob.0.0.weight"])


def last_weights(run_dir: Path) -> dict[str, torch.Tensor]:
    checkpoint = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    assert CONFIG_KEY in checkpoint
    return checkpoint["state_dict"]


def assert_same_weights(run_dir: Path, other: Path) -> None:
    first, second = last_weights(run_dir), last_weights(other)
    assert all(torch.equal(first[key], second[key]) for key in first)


class StopAfterFirstEpoch(lightning.Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = True


def test_a_seeded_run_repeats_bit_for_bit_also_when_resumed_after_an_epoch(finished_run, tiny_run, tmp_path):
    train(tiny_run(), tmp_path / "stopped", callbacks=[StopAfterFirstEpoch()])
    train(tiny_run(f"resume={tmp_path}/stopped/checkpoints/last.ckpt"), tmp_path / "resumed")
    assert_same_weights(finished_run, tmp_path / "resumed")
    epochs = json.loads((tmp_path / "resumed" / "summary.json").read_text())["epochs"]
    assert [epoch["epoch"] for epoch in epochs] == [0, 1]


@pytest.mark.parametrize(("precision", "saved_on"), [("32-true", "cpu"), ("bf16-mixed", "cpu"), ("16-mixed", "cuda")])
def test_a_resumed_run_keeps_its_precision_on_the_same_type_of_device(
    precision, saved_on, finished_run, tiny_run, tmp_path, caplog
):
    checkpoint = torch.load(finished_run / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint[PRECISION_KEY] == {"device_type": "cpu", "precision": "32-true"}
    checkpoint[PRECISION_KEY] = {"device_type": saved_on, "precision": precision}
    torch.save(checkpoint, tmp_path / "saved.ckpt")
    with caplog.at_level("INFO", "ocr.training.fit"):
        longer = ["trainer.max_epochs=3", "trainer.precision=auto", f"resume={tmp_path}/saved.ckpt"]
        train(tiny_run(*longer), tmp_path / "resumed")
    expected = precision if saved_on == "cpu" else resolve_precision("auto", torch.device("cpu"))
    assert f", {expected}, loader=dali" in caplog.text


def test_all_ranks_have_the_precision_of_the_first(tiny_run, tmp_path, monkeypatch):
    """A machine may have GPUs of two generations, and their ranks cannot add gradients of different scales."""
    from_first = Ranks.from_first

    def on_second_rank(self, make):
        own = from_first(self, make)
        return "bf16-mixed" if own == "32-true" else own

    monkeypatch.setattr(Ranks, "from_first", on_second_rank)
    train(tiny_run("trainer.max_epochs=1", "trainer.limit_train_batches=1"), tmp_path)
    checkpoint = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint[PRECISION_KEY]["precision"] == "bf16-mixed"


def test_a_run_resumed_in_the_middle_of_an_epoch_ends_as_the_uninterrupted_one(finished_run, tiny_run, tmp_path):
    checkpoint = tmp_path / "middle.ckpt"

    class StopInSecondEpoch(lightning.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.current_epoch == 1 and batch_idx == 1:  # 2 of 5 steps done
                trainer.save_checkpoint(checkpoint)
                raise KeyboardInterrupt

    with pytest.raises(SystemExit):
        train(tiny_run(), tmp_path / "stopped", callbacks=[StopInSecondEpoch()])
    train(tiny_run(f"resume={checkpoint}"), tmp_path / "resumed")
    assert_same_weights(finished_run, tmp_path / "resumed")


def test_a_run_with_rare_validation_resumes_and_keeps_its_best_checkpoint(tiny_run, tmp_path):
    rare = ["trainer.check_val_every_n_epoch=2", "trainer.limit_train_batches=2"]
    train(tiny_run(*rare, "trainer.max_epochs=3"), tmp_path / "first")
    for name in ("best", "last"):
        resume = f"resume={tmp_path}/first/checkpoints/{name}.ckpt"
        summary = train(tiny_run(*rare, "trainer.max_epochs=5", resume), tmp_path / name)
        assert [epoch["epoch"] for epoch in summary["epochs"]] == [0, 1, 2, 3, 4]
        assert summary["epochs"][-1].get("hmean") is not None
        assert (tmp_path / name / "checkpoints" / "best.ckpt").is_file()


def test_a_run_stopped_by_max_time_still_ends_with_a_score(tiny_run, tmp_path):
    clock = ["trainer.max_epochs=1000", "trainer.max_time=00:00:00:01", "trainer.check_val_every_n_epoch=999"]
    assert train(tiny_run(*clock), tmp_path)["hmean"] is not None
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()


@pytest.mark.parametrize("name", ["nowhere.ckpt", "true", "small"])
def test_a_missing_checkpoint_to_resume_from_is_named_before_anything_else(tiny_run, tmp_path, name):
    advice = r"give resume=auto, or a checkpoint file, such as checkpoints/last\.ckpt of a run folder"
    with pytest.raises(FileNotFoundError, match=rf"^resume={name}: no such file; {advice}$"):
        train(tiny_run(f"resume={name}"), tmp_path)


@pytest.mark.parametrize("ema_decay", ["null", "0.9"])
def test_a_fast_dev_run_finishes(tiny_run, tmp_path, ema_decay):
    train(tiny_run("trainer.fast_dev_run=true", f"trainer.ema_decay={ema_decay}"), tmp_path)


def test_a_step_on_images_in_perspective_finishes(tiny_run, tmp_path):
    train(tiny_run("trainer.fast_dev_run=true", "pipeline.augmentation.perspective=0.4"), tmp_path)


@pytest.fixture(params=["absolute", "dots"])
def hostile_set(request: pytest.FixtureRequest, drawn: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A data set whose val.json names a photo outside its folder, and that photo."""
    root = shutil.copytree(drawn, tmp_path / "data")
    document = json.loads((root / "jsons/val.json").read_text())
    first = sorted(document["images"])[0]
    photo = shutil.move(root / "images/val" / first, tmp_path / first)
    name = str(photo) if request.param == "absolute" else f"../../../{first}"
    document["images"] = {name: document["images"].pop(first)} | document["images"]
    (root / "jsons/val.json").write_text(json.dumps(document))
    return root, Path(photo)


def test_training_and_evaluation_never_write_over_a_file_that_a_json_names(
    hostile_set, tiny_run, finished_run, tmp_path
):
    root, photo = hostile_set
    before = sorted(tmp_path.iterdir()), photo.read_bytes()
    overrides = [f"dataset_base_path={root}", "logger.num_pictures=8", "trainer.max_epochs=1"]
    checkpoint = f"checkpoint={finished_run / 'checkpoints/last.ckpt'}"
    evaluated = ["data=upstage", "device=cpu", "split=val", checkpoint, f"dataset_base_path={root}"]
    run_dir = root / "run"  # where ../../../ leads to the photo from the folder of the pictures too
    with pytest.raises(BadDataError, match="bad_name"):
        train(tiny_run(*overrides), run_dir)
    with pytest.raises(BadDataError, match="bad_name"):
        evaluate(compose_config(EvaluateConfig, "evaluate", evaluated), run_dir)
    skip = "datasets.val_dataset.config.on_bad_sample=skip"
    train(tiny_run(*overrides, skip), run_dir)
    metrics = evaluate(compose_config(EvaluateConfig, "evaluate", [*evaluated, skip]), run_dir)
    assert metrics["images"] == NUM_VAL - 1
    assert len(list((run_dir / "pictures").iterdir())) == NUM_VAL - 1
    assert (sorted(tmp_path.iterdir()), photo.read_bytes()) == before


def test_training_and_validation_seconds_do_not_overlap(tiny_run, tmp_path):
    class Watch(lightning.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            self.started = time.perf_counter()

        def on_validation_batch_start(self, *args, **kwargs):
            time.sleep(0.2)

        def on_train_epoch_end(self, trainer, pl_module):
            self.seconds = time.perf_counter() - self.started

    watch = Watch()
    (epoch,) = train(tiny_run("trainer.max_epochs=1"), tmp_path, callbacks=[watch])["epochs"]
    assert epoch["val_seconds"] >= 0.4  # two batches
    assert epoch["train_seconds"] + epoch["val_seconds"] <= watch.seconds + 0.05


def test_out_of_memory_in_training_says_what_to_try(tiny_run, tmp_path):
    class Greedy(lightning.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.current_epoch == 1:
                torch.empty(2**50)

    with pytest.raises(OutOfMemory) as caught:
        train(tiny_run(), tmp_path, [Greedy()])
    first, *held, with_half, half, with_less, less = str(caught.value).splitlines()
    assert re.fullmatch(
        r"RAM ran out in training, epoch 2: torch requested 4,503,599,627 MB; [\d,]+ MB of [\d,]+ MB free\.", first
    )
    assert re.fullmatch(r"  this process: [\d,]+ MB, including [1-9]\d* MB in caches", held[0])
    assert with_half == "Try half the batch size, resumed from the last checkpoint:"
    assert half == f"  dataloader.batch_size=1 resume_anyway=true resume={tmp_path}/checkpoints/last.ckpt"
    assert with_less == "If that is not enough, smaller caches too:"
    resumed = f"resume_anyway=true resume={tmp_path}/checkpoints/last.ckpt"
    assert less == f"  dataloader.batch_size=1 performance=constrained {resumed}"
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()
    assert len(json.loads((tmp_path / "summary.json").read_text())["epochs"]) == 1


def test_out_of_memory_in_validation_names_its_batch_size(tiny_run, tmp_path):
    class Greedy(lightning.Callback):
        def on_validation_batch_start(self, *args, **kwargs):
            bytearray(2**60)

    with pytest.raises(OutOfMemory) as caught:
        train(tiny_run("trainer.limit_train_batches=1"), tmp_path, [Greedy()])
    assert str(caught.value).startswith("RAM ran out in validation, epoch 1: Python requested more than was free")
    assert "  dataloader.eval_batch_size=2\n" in str(caught.value)
    assert json.loads((tmp_path / "summary.json").read_text())["memory_plan"]["rows"]


def test_out_of_memory_in_an_evaluation_names_its_batch_size(finished_run, tmp_path):
    # Some 200 TB an image: NumPy fails to allocate the batch.
    config = EvaluateConfig(
        checkpoint=str(finished_run / "checkpoints" / "last.ckpt"),
        device="cpu",
        split="val",
        image_size=1 << 22,
        batch_size=4,
    )
    with pytest.raises(OutOfMemory) as caught:
        evaluate(config, tmp_path)
    first, *_, what, remedy = str(caught.value).splitlines()
    assert re.match(r"RAM ran out in prediction: NumPy requested \d{2,3},\d{3},\d{3} MB; ", first)
    assert (what, remedy) == ("Try half the batch size:", "  batch_size=2")


@pytest.mark.gpu
@pytest.mark.parametrize("cached", ["true", "false"])
def test_the_gpu_holds_no_more_than_planned(tiny_run, tmp_path, cached):
    tensors = f"datasets.val_dataset.config.cache_config.cache_transformed_tensors={cached}"
    config = tiny_run("device=gpu", "trainer.precision=16-mixed", "trainer.max_epochs=3", tensors)
    plan = train(config, tmp_path)["memory_plan"]
    assert 0 < plan["measured_gpu_peak_bytes"] <= plan["predicted_gpu_peak_bytes"]


@pytest.mark.gpu
def test_gpu_memory_is_freed_after_training(tiny_run, tmp_path):
    config = tiny_run("device=gpu", "trainer.max_epochs=1")
    train(config, tmp_path / "first")
    free = torch.cuda.mem_get_info()[0]
    train(config, tmp_path / "second")
    assert free - torch.cuda.mem_get_info()[0] < 50_000_000
    assert torch.cuda.memory_reserved() < 100_000_000


@pytest.mark.gpu
def test_out_of_memory_on_the_gpu_names_the_holders(tiny_run, tmp_path):
    class Limit(lightning.Callback):
        def on_train_start(self, trainer, pl_module):
            allowed = torch.cuda.memory_reserved() + 500_000_000
            torch.cuda.set_per_process_memory_fraction(allowed / torch.cuda.mem_get_info()[1])

        def on_train_batch_start(self, *args, **kwargs):
            torch.empty(10**9, dtype=torch.uint8, device="cuda")

    try:
        with pytest.raises(OutOfMemory) as caught:
            train(tiny_run("device=gpu"), tmp_path, [Limit()])
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert str(caught.value).startswith("GPU memory ran out in training, epoch 1: torch requested 1,000 MB")
    assert "DALI, CUDA and other programs: " in str(caught.value)
    assert "  dataloader.batch_size=1\n" in str(caught.value)


def test_a_run_with_the_size_auto_keeps_the_number_and_resumes_with_it(tiny_run, tmp_path):
    auto = ("pipeline.image_size=auto", "trainer.limit_train_batches=1", "trainer.limit_val_batches=1")
    train(tiny_run(*auto, "trainer.max_epochs=1"), tmp_path)
    last = tmp_path / "checkpoints" / "last.ckpt"
    size = load_checkpoint(last)[0].pipeline.image_size
    assert size > 96
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["pipeline"]["image_size"] == size
    start = resumption(tiny_run(*auto, "trainer.max_epochs=2", f"resume={last}"), None, tmp_path)
    assert start.config.pipeline.image_size == size
    given = {"pipeline.image_size", "resume", "trainer.max_epochs"}
    assert resumption(tiny_run(*auto, f"resume={last}"), given, tmp_path).config.pipeline.image_size == size


def test_early_stopping_ends_the_run_and_marks_it_as_finished(tiny_run, tmp_path, caplog):
    stopping = ("trainer.early_stopping.patience=2", "trainer.max_epochs=9", "trainer.limit_train_batches=1")
    with caplog.at_level("INFO"):
        summary = train(tiny_run(*stopping, "optimizer.lr=1e-9"), tmp_path)
    assert len(summary["epochs"]) == 3  # the first score is the best
    assert "stopped early, after epoch 3 of 9" in caplog.text
    assert (tmp_path / "predictions.json").is_file()
    resume = f"resume={tmp_path}/checkpoints/last.ckpt"
    assert resumption(tiny_run(*stopping, "optimizer.lr=1e-9", resume), None, tmp_path).finished is not None
    longer = (*stopping, "trainer.early_stopping.patience=3", "optimizer.lr=1e-9", resume)
    assert resumption(tiny_run(*longer), None, tmp_path).finished is None


@pytest.mark.parametrize("name", ["simple", "pytorch"])
def test_a_profiler_writes_into_the_folder_of_the_run(tiny_run, tmp_path, name):
    train(tiny_run(f"trainer.profiler={name}", "trainer.max_epochs=1", "trainer.limit_train_batches=2"), tmp_path)
    assert any(file.stat().st_size for file in (tmp_path / "profile").iterdir())


def test_the_search_for_a_learning_rate_trains_nothing_and_writes_its_curve(tiny_run, tmp_path, caplog):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best.ckpt").touch()  # of an earlier run, which stays as it is
    with caplog.at_level("INFO"):
        found = train(tiny_run("trainer.lr_find_steps=24"), tmp_path)
    assert 1e-6 < found["lr_suggestion"] < 1
    assert f"optimizer.lr={found['lr_suggestion']:.2g}" in caplog.text
    rows = (tmp_path / "learning_rates.csv").read_text().splitlines()
    assert rows[0] == "lr,loss"
    assert 20 < len(rows) <= 25
    assert not list(tmp_path.glob(".lr_find*"))
    assert [file.name for file in (tmp_path / "checkpoints").glob("*.ckpt")] == ["best.ckpt"]
