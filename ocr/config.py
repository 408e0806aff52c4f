"""The configuration of a run. Each section lives beside the part it configures and holds its defaults, once:

pipeline       dali_pipelines/config.py     sizes, augmentation, decode
datasets       ocr/datasets/schemas.py      folders, annotations, what happens to bad input
synthetic      ocr/synthetic/      the drawn receipts of data=synthetic
dataloader     ocr/loaders/loader.py       batch sizes, workers
targets        ocr/targets/config.py        shrink and threshold maps
model          ocr/models/config.py         backbone, pyramid
loss           ocr/losses/config.py         weights of its parts
postprocess    ocr/postprocess/config.py    maps -> polygons
optimizer, trainer, logger, and everything else: here
"""

from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional, TypeVar

from omegaconf import DictConfig, OmegaConf
from pydantic import ByteSize, ConfigDict, Field, ValidationError, create_model, model_validator

from dali_pipelines.config import PipelineConfig, Section
from ocr.datasets.schemas import CacheConfig, DatasetConfig
from ocr.errors import InputError
from ocr.loaders.config import DataLoaderConfig
from ocr.losses.config import LossConfig
from ocr.models.config import ModelConfig
from ocr.postprocess.config import PostprocessConfig
from ocr.synthetic.config import SyntheticConfig
from ocr.targets.config import TargetConfig

NOT_SET = "???"
"""OmegaConf's mark for a value that must be given."""

Device = Literal["auto", "cpu", "gpu"]
LoaderName = Literal["dali", "torch", "webdataset"]


class DatasetEntry(Section):
    config: DatasetConfig = DatasetConfig(image_path=NOT_SET)


class EvaluatedCacheConfig(CacheConfig):
    cache_transformed_tensors: bool = True
    """Keep finished inputs and targets after epoch 0: nothing in this split is random."""


class EvaluatedDatasetConfig(DatasetConfig):
    preload_images: bool = True
    """Read all images into RAM before the run; they are let go once finished inputs have taken their place."""
    cache_config: EvaluatedCacheConfig = EvaluatedCacheConfig()


class EvaluatedDatasetEntry(Section):
    config: EvaluatedDatasetConfig = EvaluatedDatasetConfig(image_path=NOT_SET)


class DatasetsConfig(Section):
    train_dataset: DatasetEntry = DatasetEntry()
    val_dataset: EvaluatedDatasetEntry = EvaluatedDatasetEntry()
    test_dataset: EvaluatedDatasetEntry = EvaluatedDatasetEntry()
    predict_dataset: DatasetEntry = DatasetEntry()

    def has_split(self, name: str) -> bool:
        """Whether the split's image_path is set."""
        config: DatasetConfig = getattr(self, f"{name}_dataset").config
        return config.image_path != NOT_SET

    def split(self, name: str) -> DatasetConfig:
        """The configuration of train, val, test or predict.

        Raises:
            InputError: its image_path is not set.
        """
        config: DatasetConfig = getattr(self, f"{name}_dataset").config
        if not self.has_split(name):
            raise InputError(
                f"datasets.{name}_dataset.config.image_path is not set; choose a data set, for example "
                "data=upstage dataset_base_path=FOLDER, or give the path itself"
            )
        return config


class OptimizerConfig(Section):
    name: Literal["adamw", "sgd"] = "adamw"
    """AdamW, or SGD with momentum."""
    lr: float = Field(default=1e-3, gt=0)
    """Peak learning rate."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """Of convolution weights; biases and norms have none."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """sgd only."""
    schedule: Literal["cosine", "poly", "constant"] = "cosine"
    """Shape of the decay after the warm-up; poly is the DB paper's."""
    warmup_fraction: float = Field(default=0.1, ge=0, lt=1)
    """Share of all steps in which the rate rises linearly."""
    poly_power: float = Field(default=0.9, gt=0)
    """poly only: (1 - progress) ** poly_power."""


BatchLimit = Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, le=1)] | None


class TrainerConfig(Section):
    """Handed to Lightning's Trainer; what is not described here means what it means there."""

    max_epochs: int = Field(default=100, ge=1)
    """Epochs of the run; the schedule ends with the last one."""
    precision: Literal["auto", "32-true", "16-mixed", "bf16-mixed"] = "auto"
    """auto: bf16-mixed on a GPU or CPU that computes in it, else 16-mixed on a GPU and 32-true on a CPU."""
    limit_train_batches: BatchLimit = None
    """Batches of an epoch, or a share of them (with a decimal point); null: all."""
    limit_val_batches: BatchLimit = None
    """The same for validation."""
    check_val_every_n_epoch: int = Field(default=1, ge=1)
    """Epochs from one validation to the next; the last epoch is always validated."""
    val_loss: bool = True
    """Log the loss of the validation batches too; false: no target maps are made for them."""
    num_sanity_val_steps: int = Field(default=0, ge=0)
    """Validation batches to try before the first epoch."""
    accumulate_grad_batches: int = Field(default=1, ge=1)
    """Batches whose gradients are averaged for one step of the optimizer."""
    gradient_clip_val: float | None = Field(default=5.0, gt=0)
    """Largest norm of the gradient."""
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    """Validate and save an exponential moving average of the weights; null: off."""
    benchmark: bool = False
    """Let cuDNN choose its kernels by timing."""
    deterministic: bool = False
    """Use deterministic kernels where torch has them, and warn where it has not."""
    channels_last: bool = True
    """Memory format of images and weights."""
    compile: bool = False
    """torch.compile the network. It is compiled at the first step, the first validation and for the last training batch if that
    is a smaller one; that takes a minute or more each, and pays in long runs."""
    cuda_graphs: bool = False
    """Replay the forward pass of evaluation as one CUDA graph instead of launching each kernel: for networks and batches so small
    that the processor is what limits validation. Its memory stays taken between validations. Never in training; without a
    GPU: no effect."""
    devices: int | str = "auto"
    """Number of devices. auto: all GPUs, or one CPU process."""
    strategy: str = "auto"
    """How several devices share the work, as Lightning names it; ddp is the usual choice."""
    log_every_n_steps: int = Field(default=10, ge=1)
    """Training steps from one logged loss to the next."""
    max_time: str | None = Field(default=None, pattern=r"^\d\d:\d\d:\d\d:\d\d$")
    """Stop after this long, DD:HH:MM:SS; the schedule does not know it."""
    fast_dev_run: bool = False
    """Run one batch of training and validation, to see whether everything works."""


class WandbConfig(Section):
    enabled: bool = False
    """Needs the extra: uv sync --extra wandb."""
    project: str = "dali-dbnet"
    """Project on Weights & Biases."""


class LoggerConfig(Section):
    tensorboard: bool = True
    """Write TensorBoard events."""
    csv: bool = True
    """Write metrics.csv."""
    wandb: WandbConfig = WandbConfig()
    num_pictures: int = Field(default=4, ge=0)
    """Validation images drawn with their detections after each validation."""


class DataSection(Section):
    """Where the data is: shared by all commands."""

    dataset_base_path: str = NOT_SET
    """Root of the data set."""
    draw_synthetic: bool = False
    """Draw the synthetic set into dataset_base_path first (data=synthetic)."""
    synthetic: SyntheticConfig = SyntheticConfig()
    datasets: DatasetsConfig = DatasetsConfig()


class TrainConfig(DataSection):
    """scripts/train.py"""

    exp_name: str = "dbnet"
    """Names the folder of the run."""
    seed: int = Field(default=42, ge=0)
    """Of the weights, the order and the augmentation."""
    device: Device = "auto"
    """auto: a GPU where there is one."""
    loader: LoaderName = "dali"
    """dali reads, decodes and augments on the device; torch is the plain baseline with the same samples; webdataset takes them from
    the tar shards of each split (`shards`), through either (dataloader.shard_reader)."""
    metric: Literal["icdar", "cleval"] = "icdar"
    """What val/hmean is and the best checkpoint is chosen by: IoU above 0.5 (ICDAR), or characters found (CLEval)."""
    resume: str | None = None
    """Checkpoint to go on from, also in the middle of an epoch."""
    pipeline: PipelineConfig = PipelineConfig()
    dataloader: DataLoaderConfig = DataLoaderConfig()
    targets: TargetConfig = TargetConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    postprocess: PostprocessConfig = PostprocessConfig()
    trainer: TrainerConfig = TrainerConfig()
    logger: LoggerConfig = LoggerConfig()

    @property
    def engine(self) -> Literal["dali", "torch"]:
        """What executes the plan: DALI, or PyTorch's workers."""
        if self.loader != "webdataset":
            return self.loader
        return "dali" if self.dataloader.shard_reader == "dali" else "torch"

    @model_validator(mode="after")
    def _full_precision_needs_float32_images(self) -> "TrainConfig":
        if self.trainer.precision == "32-true" and self.pipeline.output_dtype == "float16":
            raise ValueError("trainer.precision=32-true needs pipeline.output_dtype=auto or float32, not float16")
        return self


def _all_optional(section: type[Section], name: str) -> type[Section]:
    """The same fields, each null unless given: overrides of what a checkpoint carries."""
    fields: dict[str, Any] = {}
    for key, field in section.model_fields.items():
        bounded = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
        fields[key] = (Optional[bounded], None)  # noqa: UP045  # the annotation is known at run time only
    return create_model(name, __base__=Section, **fields)


if TYPE_CHECKING:
    PostprocessOverrides = Section
else:
    PostprocessOverrides = _all_optional(PostprocessConfig, "PostprocessOverrides")


class InferenceConfig(DataSection):
    """What evaluate.py and predict.py share. null means: as the checkpoint was trained."""

    checkpoint: str = NOT_SET
    """A .ckpt file of a run; it carries its network and its preprocessing."""
    device: Device = "auto"
    """auto: a GPU where there is one."""
    loader: LoaderName | None = None
    """As for training."""
    batch_size: int | None = Field(default=None, ge=1)
    """Images per forward pass; null: the dataloader.eval_batch_size of the training."""
    precision: Literal["auto", "32-true", "16-mixed", "bf16-mixed"] | None = None
    """As trainer.precision."""
    image_size: int | None = Field(default=None, ge=32, multiple_of=32)
    """Longest side in pixels."""
    postprocess: PostprocessOverrides = PostprocessOverrides()

    @model_validator(mode="after")
    def _checkpoint_is_given(self) -> "InferenceConfig":
        if self.checkpoint == NOT_SET:
            raise ValueError("checkpoint=FILE is needed, for example checkpoint=outputs/.../checkpoints/best.ckpt")
        return self


class EvaluateConfig(InferenceConfig):
    """scripts/evaluate.py"""

    split: Literal["train", "val", "test"] = "test"
    """Which of the datasets; without data=... those the checkpoint was trained with."""


class PredictConfig(InferenceConfig):
    """scripts/predict.py"""

    images: str = NOT_SET
    """Folder of images; datasets.predict_dataset.config.image_path says the same."""
    output: str = NOT_SET
    """Folder for predictions.json and the pictures."""
    draw: bool = True
    """Write each image with its detections drawn on it."""


class PrepareConfig(DataSection):
    """scripts/prepare_data.py. Sections of an experiment that only training knows are of no use here and left aside."""

    model_config = ConfigDict(extra="ignore")

    output: str = NOT_SET
    """Folder for the prepared data set: a new one, or one of an earlier run. With canonical=false it may be dataset_base_path."""
    splits: tuple[Literal["train", "val", "test"], ...] | None = Field(default=None, min_length=1)
    """Those to prepare; null: all that are there."""
    canonical: bool = True
    """Turn images upright as their EXIF says, and their annotations with them; false: keep both as they are stored."""
    maps: bool = True
    """Write the target maps of val and test, for load_maps=true. They depend on pipeline.image_size and on targets."""
    shards: bool = False
    """Write the images as tar shards too, with their annotations and index, for loader=webdataset."""
    shard_size: ByteSize = Field(default=ByteSize(256_000_000), gt=0)
    """Bytes a shard should have, as 256MB; it ends with the image that reaches them."""
    on_bad_sample: Literal["error", "skip"] | None = None
    """What the audit does with bad input, for all splits; null: as each split's on_bad_sample says."""
    num_workers: int | None = Field(default=None, ge=1)
    """Threads; null: one a core."""
    pipeline: PipelineConfig = PipelineConfig()
    targets: TargetConfig = TargetConfig()

    @model_validator(mode="after")
    def _output_is_given(self) -> "PrepareConfig":
        if self.output == NOT_SET:
            raise ValueError("output=FOLDER is needed, for example output=data/prepared")
        return self


AnyConfig = TypeVar("AnyConfig", bound=Section)


def validate_config(config_class: type[AnyConfig], hydra_config: DictConfig) -> AnyConfig:
    """The checked configuration; after this no DictConfig exists.

    Raises:
        SystemExit: a key or value is wrong; the message names each.
    """
    values = OmegaConf.to_container(hydra_config, resolve=True)
    try:
        return config_class.model_validate(values)
    except ValidationError as error:
        lines = [
            f"  {'.'.join(map(str, item['loc'])) or 'configuration'}: {item['msg']}"
            + ("" if isinstance(item["input"], dict) or item["type"] == "missing" else f" (found {item['input']!r})")
            for item in error.errors()
        ]
        raise SystemExit("The configuration is wrong:\n" + "\n".join(lines)) from None
