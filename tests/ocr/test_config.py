"""Each override that existing users have in their scripts, composed by Hydra and checked by the schema."""

import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf
from pydantic import ValidationError

from dali_pipelines.config import AugmentationConfig, PipelineConfig
from ocr.command_line import compose_config, prepare_hydra
from ocr.config import EvaluateConfig, ExportConfig, PredictConfig, TrainConfig
from tests.composing import quickly_composed

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def load(*overrides: str, name: str = "train", schema: type = TrainConfig):
    return compose_config(schema, name, overrides)


def quickly_loaded(*overrides: str) -> TrainConfig:
    return quickly_composed(TrainConfig, "train", overrides)


def lookup(config: TrainConfig, key: str):
    for part in key.split("."):
        config = getattr(config, part)
    return config


SPLITS = ("train_dataset", "val_dataset", "test_dataset", "predict_dataset")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("exp_name=speed_test", "speed_test"),
        ("seed=42", 42),
        ("seed=7", 7),
        ("trainer.max_epochs=3", 3),
        ("trainer.limit_train_batches=1", 1),
        ("trainer.limit_train_batches=0.5", 0.5),
        ("trainer.limit_val_batches=50", 50),
        ("trainer.precision=32-true", "32-true"),
        ("trainer.precision=16-mixed", "16-mixed"),
        ("trainer.benchmark=true", True),
        ("logger.wandb.enabled=false", False),
        ("loader=webdataset", "webdataset"),
        ("dataloader.shard_reader=webdataset", "webdataset"),
        ("dataset_base_path=/data/receipts", "/data/receipts"),
        *(
            (f"datasets.{split}.config.{key}", expected)
            for split in SPLITS
            for key, expected in [
                ("image_path=/data/images", "/data/images"),
                ("annotation_path=/data/labels.json", "/data/labels.json"),
                ("shards=s3://bucket/train", "s3://bucket/train"),
                ("preload_images=false", False),
                ("preload_maps=false", False),
                ("load_maps=true", True),
                ("prenormalize_images=false", False),
                ("cache_config.cache_images=false", False),
                ("cache_config.cache_maps=false", False),
                ("cache_config.cache_transformed_tensors=false", False),
                ("cache_config.log_statistics_every_n=50", 50),
            ]
        ),
    ],
)
def test_overrides_of_existing_users_work_as_written(override, expected):
    value = lookup(quickly_loaded(override), override.split("=")[0])
    assert value == expected
    assert type(value) is type(expected)


def test_whole_numbers_and_fractions_of_batches_are_told_apart():
    # 1 is one batch and 1.0 is all of them.
    assert isinstance(load("trainer.limit_val_batches=1").trainer.limit_val_batches, int)
    assert isinstance(load("trainer.limit_val_batches=1.0").trainer.limit_val_batches, float)


@pytest.mark.parametrize("data", sorted({path.stem for path in (CONFIGS / "data").glob("*.yaml")} - {"auto"}))
def test_each_data_set_composes(data):
    config = load(f"data={data}", "dataset_base_path=/somewhere")
    for split in ("train", "val", "test"):
        for one in config.datasets.split(split).each_set().values():
            assert one.image_path.startswith("/somewhere/")
            assert one.annotation_path.startswith("/somewhere/")


@pytest.mark.parametrize("base", ["/somewhere", "some/where/", "s3://bucket/receipts"])
@pytest.mark.parametrize("data", ["upstage", "synthetic", "webdataset", "icdar"])
def test_paths_of_a_data_set_belong_to_its_shards(data, base):
    config = quickly_loaded(f"data={data}", "loader=webdataset", f"dataset_base_path={base}")
    for split in ("train", "val", "test"):
        assert config.datasets.split(split).settings_without_effect_on_shards() == []


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("image_path=/elsewhere", ["image_path=/elsewhere"]),
        ("image_path=/somewhere_else/images/val", ["image_path=/somewhere_else/images/val"]),
        ("annotation_path=labels.json", ["annotation_path=labels.json"]),
        ("annotation_frame=upright", ["annotation_frame"]),
        ("check_pixels=false", ["check_pixels"]),
        ("image_extensions=[.jpg]", ["image_extensions"]),
        ("on_bad_sample=skip", ["on_bad_sample"]),
        ("on_bad_sample=error", []),
        ("shards=/pieces/val", []),
        ("shards=null", []),
    ],
)
def test_settings_that_shards_leave_without_effect_are_known(override, expected):
    config = quickly_loaded(
        "data=webdataset", "dataset_base_path=/somewhere", f"datasets.val_dataset.config.{override}"
    )
    assert config.datasets.split("val").settings_without_effect_on_shards() == expected


@pytest.mark.parametrize(
    ("overrides", "block"),
    [
        (["data=webdataset", "dataset_base_path=s3://bucket/receipts"], 16),
        (["data=webdataset", "dataset_base_path=s3://bucket/receipts", "dataloader.shuffle_block=1"], 1),
        (["data=webdataset", "dataset_base_path=s3://bucket/receipts", "dataloader.shard_reader=webdataset"], 1),
        (["data=webdataset", "dataset_base_path=/receipts"], 1),
        (["data=upstage", "dataset_base_path=/receipts"], 1),
        (["data=upstage", "dataset_base_path=/receipts", "dataloader.shuffle_block=4"], 4),
    ],
)
def test_neighbours_are_shuffled_as_blocks_in_a_bucket_only(overrides, block):
    assert quickly_loaded(*overrides).dataloader.shuffle_block == block


@pytest.mark.parametrize("experiment", sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml")))
def test_each_experiment_composes(experiment):
    assert load(f"experiment={experiment}", "data=upstage").exp_name == experiment


def test_defaults_are_those_of_the_schemas():
    prepare_hydra()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        composed = OmegaConf.to_container(compose("train", ["data=upstage"]), resolve=True)
    for section in (
        "pipeline",
        "dataloader",
        "targets",
        "model",
        "loss",
        "optimizer",
        "postprocess",
        "trainer",
        "logger",
    ):
        assert composed[section] == TrainConfig().model_dump(mode="json")[section]


def test_canonical_validation_images_are_taken_where_the_folder_exists(tmp_path):
    base = f"dataset_base_path={tmp_path}"
    assert load("data=upstage", base).datasets.split("val").image_path == f"{tmp_path}/images/val"
    (tmp_path / "images_val_canonical").mkdir()
    assert load("data=upstage", base).datasets.split("val").image_path == f"{tmp_path}/images_val_canonical"


@pytest.mark.parametrize("override", ["trainer.max_epoch=3", "datasets.val_dataset.config.preload_image=true", "sed=4"])
def test_a_wrong_key_fails_and_is_named(override):
    with pytest.raises(ConfigCompositionException, match=override.split("=")[0].split(".")[-1]):
        load(override)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("trainer.max_epochs=none_at_all", "trainer.max_epochs"),
        ("trainer.precision=64", "trainer.precision"),
        ("pipeline.image_size=650", "pipeline.image_size"),
        ("loader=fast", "loader"),
        ("trainer.limit_val_batches=-1", "trainer.limit_val_batches"),
        ("trainer.limit_train_batches=1.5", "trainer.limit_train_batches"),
        ("trainer.max_time=soon", "trainer.max_time"),
        ("datasets.val_dataset.config.cache_config.log_statistics_every_n=0", "log_statistics_every_n"),
        ("targets.shrink_ratio=1.5", "targets.shrink_ratio"),
        ("datasets.val_dataset.config.cache_config.dtype=float64", "dtype"),
        ("datasets.val_dataset.config.cache_config.device_budget=much", "device_budget"),
        ("+datasets.val_dataset.config.cache_config.size=3", "size"),
        ("pipeline.augmentation.scale_min=4", "scale_min"),
        ("pipeline.augmentation.perspective=0.5", r"perspective: .* less than or equal to 0\.4 \(found 0\.5\)"),
        ("pipeline.augmentation.perspective=-0.1", r"perspective: .* greater than or equal to 0 \(found -0\.1\)"),
    ],
)
def test_a_wrong_value_fails_and_is_named(override, named):
    with pytest.raises(SystemExit, match=named):
        load(override)


def test_several_wrong_values_are_all_named():
    with pytest.raises(SystemExit, match=r"(?s)loss\.k.*trainer\.max_epochs"):
        load("trainer.max_epochs=-1", "loss.k=-2")


def test_an_unset_split_names_the_keys_to_set():
    with pytest.raises(ValueError, match=r"datasets.test_dataset.config.image_path is not set.*dataset_base_path"):
        TrainConfig().datasets.split("test")


def test_evaluate_needs_a_checkpoint():
    with pytest.raises(SystemExit, match="checkpoint=FILE is needed"):
        load(name="evaluate", schema=EvaluateConfig)


def test_inference_overrides_are_null_unless_given():
    config = load("checkpoint=a.ckpt", "postprocess.box_thresh=0.5", name="evaluate", schema=EvaluateConfig)
    given = {key: value for key, value in config.postprocess if value is not None}
    assert given == {"box_thresh": 0.5}
    assert load("checkpoint=a.ckpt", "images=in", "output=out", name="predict", schema=PredictConfig).output == "out"


@pytest.mark.parametrize("name", ["evaluate", "predict"])
def test_each_data_set_composes_with_the_other_commands(name):
    schema = {"evaluate": EvaluateConfig, "predict": PredictConfig}[name]
    for data in ("synthetic", "upstage", "icdar"):
        config = load(f"data={data}", "checkpoint=a.ckpt", name=name, schema=schema)
        assert config.datasets.has_split("val")


def test_overrides_of_a_checkpoint_keep_their_bounds():
    with pytest.raises(SystemExit, match=r"postprocess\.bin_thresh"):
        load("checkpoint=a.ckpt", "postprocess.bin_thresh=5", name="evaluate", schema=EvaluateConfig)


@pytest.mark.parametrize("average", ["b.ckpt", "[b.ckpt]"])
def test_one_file_to_average_with_needs_no_list(average):
    config = load("checkpoint=a.ckpt", "output=a.onnx", f"average={average}", name="export", schema=ExportConfig)
    assert config.average == ["b.ckpt"]


@pytest.mark.parametrize("resume", ["auto", "last.ckpt"])
def test_a_search_for_a_learning_rate_resumes_nothing(resume):
    with pytest.raises(SystemExit, match="leave resume out, and give init_from=FILE"):
        load("trainer.lr_find_steps=24", f"resume={resume}")


def test_float16_images_and_full_precision_exclude_each_other():
    with pytest.raises(SystemExit, match="output_dtype"):
        load("trainer.precision=32-true", "pipeline.output_dtype=float16")


def test_sections_are_frozen():
    with pytest.raises(ValidationError):
        PipelineConfig().image_size = 32


def test_crop_size_defaults_to_the_image_size():
    assert PipelineConfig(image_size=960).crop_size == 960
    assert PipelineConfig(augmentation=AugmentationConfig(crop_size=512)).crop_size == 512


def test_the_schemas_import_neither_torch_nor_dali():
    """So that --help need not wait for them."""
    code = "import sys, ocr.config; print([name for name in ('torch', 'nvidia.dali', 'cv2') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("optimizer", {"lr": float("inf")}),
        ("optimizer", {"lr": float("nan")}),
        ("optimizer", {"lr": -1.0}),
        ("optimizer", {"weight_decay": float("inf")}),
        ("postprocess", {"unclip_offset": float("nan")}),
        ("postprocess", {"unclip_offset": -1e300}),  # ended the process in pyclipper
        ("postprocess", {"unclip_offset": 1e9}),
        ("loss", {"thresh_weight": float("inf")}),
        ("pipeline", {"mean": [0.0, float("nan"), 0.0]}),
        ("trainer", {"devices": 0}),
        ("trainer", {"devices": -2}),
        ("trainer", {"devices": "many"}),
    ],
)
def test_a_number_that_no_run_can_use_is_refused(section, values):
    with pytest.raises(ValidationError, match=next(iter(values))):
        TrainConfig.model_validate({section: values})


@pytest.mark.parametrize("devices", [1, 2, -1, "auto", "0,1", "1,"])
def test_devices_are_a_number_or_a_list(devices):
    assert TrainConfig.model_validate({"trainer": {"devices": devices}}).trainer.devices == devices


@pytest.mark.parametrize(
    ("override", "line"),
    [
        (
            "trainer.max_time=5h",
            "trainer.max_time: expected DD:HH:MM:SS, such as 00:08:00:00 for eight hours (found '5h')",
        ),
        (
            "dataloader.batch_size=1000000000",
            "dataloader.batch_size: Input should be less than or equal to 65536 (found 1000000000)",
        ),
        ("seed=4294967296", "seed: Input should be less than 4294967296 (found 4294967296)"),
        ("trainer.devices=0", "trainer.devices: at least 1, or -1 for all (found 0)"),
        (
            "model.freeze=stages:5",
            "model.freeze: expected none, backbone, or stages:N with N from 1 to 4 (found 'stages:5')",
        ),
        (
            "+trainer.max_epoch=3",
            "trainer.max_epoch: no such key; the nearest is trainer.max_epochs; the option --cfg job lists all keys",
        ),
        (
            "+on_bad_sample=skip",
            "on_bad_sample: no such key; the nearest is datasets.train_dataset.config.on_bad_sample; the option --cfg job lists "
            "all keys",
        ),
        ("+unknown.key=1", "unknown: no such key; the option --cfg job lists all keys"),
        (
            "+max_epochs=3",
            "max_epochs: no such key; the nearest is trainer.max_epochs; the option --cfg job lists all keys",
        ),
    ],
)
def test_a_wrong_value_is_one_line_with_what_is_expected(override, line):
    with pytest.raises(SystemExit) as refused:
        load(override)
    assert str(refused.value) == f"The configuration is wrong: {line}"


def test_a_time_is_given_in_days_hours_minutes_and_seconds():
    assert load("trainer.max_time=00:08:00:00").trainer.max_time == "00:08:00:00"


@pytest.mark.parametrize(
    ("overrides", "needs_root"),
    [
        (["data=upstage"], True),
        (["data=synthetic"], False),
        ([], False),
        (["data=upstage", "datasets.test_dataset.config.image_path=elsewhere/images"], False),
        (["data=upstage", "datasets.train_dataset.config.shards=s3://bucket/train"], False),
        (["data=webdataset", "dataset_base_path=s3://bucket/receipts"], False),
        (["data=sroie_and_icdar15", "dataset_base_path=/sets"], True),
    ],
)
def test_a_root_is_needed_where_all_files_lie_below_it(overrides, needs_root):
    assert quickly_composed(TrainConfig, "train", overrides).needs_root() == needs_root
