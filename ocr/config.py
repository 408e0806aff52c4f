"""The configuration of each command. A section and its defaults live in the folder of the part that it configures:

pipeline       dali_pipelines/config.py     sizes, augmentation, decoding
datasets       ocr/datasets/schemas.py      folders, annotations, caches, what happens to bad input
synthetic      ocr/synthetic/config.py      the drawn receipts of data=synthetic
dataloader     ocr/loaders/config.py        batch sizes, workers
targets        ocr/targets/config.py        shrink and threshold maps
model          ocr/models/config.py         backbone, feature pyramid, head
loss           ocr/losses/config.py         weights of the loss terms
postprocess    ocr/postprocess/config.py    from maps to polygons
optimizer, trainer, logger and all other keys: this file

Importing this file takes half a second: it loads neither torch nor DALI.
"""

import re
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException
from pydantic import (
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)

from dali_pipelines.config import PipelineConfig, Section
from ocr.datasets.schemas import CacheConfig, DatasetConfig
from ocr.errors import InputError
from ocr.file_names import shown_lines
from ocr.loaders.config import REMOTE_SHUFFLE_BLOCK, DataLoaderConfig
from ocr.losses.config import LossConfig
from ocr.models.config import ModelConfig
from ocr.pages.config import Rotations, Tile
from ocr.postprocess.config import PostprocessConfig
from ocr.synthetic.config import SyntheticConfig
from ocr.targets.config import TargetConfig

NOT_SET = "???"
"""OmegaConf's mark for a mandatory value that is not set."""
SHIPPED_WEIGHTS = "small"
"""Name of the weights that come with this package; docs/shipped_weights.md describes them."""
_CHECKPOINT_NEEDED = (
    "checkpoint=FILE is needed, for example checkpoint=outputs/.../checkpoints/best.ckpt, or checkpoint=small for the weights that "
    "come with this package"
)

Device = Literal["auto", "cpu", "gpu"]
Precision = Literal["auto", "32-true", "16-mixed", "bf16-mixed"]
LoaderName = Literal["dali", "torch", "webdataset"]


def _as_sets(config: Any) -> Any:
    """Returns a list of data sets as the section whose `sets` they are, and anything else unchanged."""
    return {"image_path": NOT_SET, "sets": config} if isinstance(config, list | tuple) else config


def _as_list(value: Any) -> Any:
    """Returns a text as a list of one, and anything else unchanged."""
    return [value] if isinstance(value, str) else value


class DatasetEntry(Section):
    """A split for training or prediction."""

    config: Annotated[DatasetConfig, BeforeValidator(_as_sets)] = DatasetConfig(image_path=NOT_SET)


class EvaluatedCacheConfig(CacheConfig):
    """`CacheConfig` with the defaults of validation and test."""

    cache_transformed_tensors: bool = True
    """Keep inputs and targets after epoch 0; nothing in this split is random."""


class EvaluatedDatasetConfig(DatasetConfig):
    """`DatasetConfig` with the defaults of validation and test."""

    preload_images: bool = True
    """Read all images into RAM before the run; freed once the tensor cache replaces them."""
    cache_config: EvaluatedCacheConfig = EvaluatedCacheConfig()


class EvaluatedDatasetEntry(Section):
    """A split for validation or test."""

    config: Annotated[EvaluatedDatasetConfig, BeforeValidator(_as_sets)] = EvaluatedDatasetConfig(image_path=NOT_SET)


class DatasetsConfig(Section):
    """The four splits of a run."""

    train_dataset: DatasetEntry = DatasetEntry()
    val_dataset: EvaluatedDatasetEntry = EvaluatedDatasetEntry()
    test_dataset: EvaluatedDatasetEntry = EvaluatedDatasetEntry()
    predict_dataset: DatasetEntry = DatasetEntry()

    def has_split(self, name: str) -> bool:
        """Returns whether the image_path of train, val, test or predict is set, or its sets are."""
        config: DatasetConfig = getattr(self, f"{name}_dataset").config
        return config.image_path != NOT_SET or bool(config.sets)

    def split(self, name: str) -> DatasetConfig:
        """Returns the configuration of train, val, test or predict.

        Raises:
            InputError: its image_path is not set.
        """
        config: DatasetConfig = getattr(self, f"{name}_dataset").config
        if not self.has_split(name):
            key = f"datasets.{name}_dataset.config.image_path"
            if name == "predict":
                raise InputError(
                    "images is not set; give images=FOLDER, an image file, or a pattern such as images='scans/*.jpg' (or "
                    f"{key}=FOLDER)"
                )
            raise InputError(
                f"{key} is not set; give a data set, for example data=upstage dataset_base_path=FOLDER, or the path itself"
            )
        return config.without_list_of_one()

    def paths(self) -> list[str]:
        """Returns the paths of images, annotations and shards that are set, of all splits."""
        splits = (self.train_dataset, self.val_dataset, self.test_dataset, self.predict_dataset)
        sets = [one for split in splits for one in split.config.each_set().values()]
        given = [path for one in sets for path in (one.image_path, one.annotation_path, one.shards)]
        return [path for path in given if path not in (None, NOT_SET)]

    @model_validator(mode="after")
    def _predicts_one_folder(self) -> "DatasetsConfig":
        if self.predict_dataset.config.sets:
            raise ValueError(
                "predict_dataset.config.sets: predict.py finds text in one folder of images; give images=FOLDER"
            )
        return self


class OptimizerConfig(Section):
    """Optimizer and learning-rate schedule."""

    name: Literal["adamw", "sgd"] = "adamw"
    """AdamW, or SGD with momentum."""
    lr: float = Field(default=1e-3, gt=0)
    """Peak learning rate."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """Weight decay of convolutions; biases and norms have none."""
    layer_decay: float | None = Field(default=None, gt=0, le=1)
    """Factor of the learning rate from one depth to the next below: head and feature pyramid have lr, the backbone's last stage has
    lr * this, the first one with the stem lr * this ** 4. null: lr everywhere. Fine-tuning often uses 0.6 to 0.9."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of SGD; AdamW ignores it."""
    schedule: Literal["cosine", "poly", "constant"] = "cosine"
    """Shape of the decay after the warm-up. The DBNet paper uses poly."""
    warmup_fraction: float = Field(default=0.1, ge=0, lt=1)
    """Share of all steps in which the learning rate rises linearly to its peak."""
    poly_power: float = Field(default=0.9, gt=0)
    """Exponent of the poly schedule, lr * (1 - progress) ** poly_power; the other schedules ignore it."""


BatchLimit = Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, le=1)] | None


class EarlyStoppingConfig(Section):
    """When a run ends before its last epoch because val/hmean rises no more."""

    patience: int | None = Field(default=None, ge=1)
    """Number of validations in a row without a better val/hmean after which the run ends; null: it never does. The learning-rate
    schedule does not take it into account."""
    min_delta: float = Field(default=0.0, ge=0, lt=1)
    """Smallest rise of val/hmean that counts as better."""


class TrainerConfig(Section):
    """Settings of Lightning's Trainer, under the same names, and of how the network is run."""

    max_epochs: int = Field(default=100, ge=1)
    """Epochs of the run; the schedule ends with the last one."""
    precision: Precision = "auto"
    """auto: bf16-mixed on a GPU or CPU that is faster in bfloat16 (CPUs: AMX, or AVX512-BF16 by AMD), else 16-mixed on a GPU and
    32-true on a CPU. A run that resumes on the same type of device keeps the precision of its checkpoint."""
    limit_train_batches: BatchLimit = None
    """Training batches of an epoch: a number, or a share if written with a decimal point; null: all."""
    limit_val_batches: BatchLimit = None
    """Validation batches, in the same form."""
    check_val_every_n_epoch: int = Field(default=1, ge=1)
    """Epochs from one validation to the next. The last epoch is always validated."""
    val_loss: bool = True
    """Log the loss of the validation batches; false: saves making their target maps."""
    num_sanity_val_steps: int = Field(default=0, ge=0)
    """Validation batches to try before the first epoch."""
    accumulate_grad_batches: int = Field(default=1, ge=1)
    """Batches whose gradients are averaged for one step of the optimizer."""
    gradient_clip_val: float | None = Field(default=5.0, gt=0)
    """Largest norm of the gradient; null: no clipping."""
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    """Decay of an exponential moving average of the weights, which is validated and saved in their place; null: off. After n steps
    it is (1 + n) / (10 + n) at most, so that short runs forget their first weights too."""
    early_stopping: EarlyStoppingConfig = EarlyStoppingConfig()
    profiler: Literal["simple", "advanced", "pytorch"] | None = None
    """Measure the run with Lightning's profiler, into the folder `profile` of the run: times by hook (simple), by function
    (advanced), or PyTorch's trace of operators and kernels, which Perfetto opens (pytorch). null: no measurement, which costs
    least."""
    lr_find_steps: int | None = Field(default=None, ge=20)
    """Do not train, but look for the learning rate: it rises from step to step over this many steps (Lightning's tuner; 100 are
    usual). The run logs a suggestion with the setting to paste, and writes the curve as learning_rates.csv. null: train."""
    benchmark: bool = False
    """Let cuDNN time its kernels and choose the fastest."""
    deterministic: bool = False
    """Use deterministic kernels where PyTorch has them, and warn where it has none."""
    channels_last: bool = True
    """Keep images and weights in channels-last memory format."""
    compile: bool = False
    """Compile the network with torch.compile. Compilation takes a minute or more at the first step, at the first validation, and
    for a smaller last training batch, so it pays in long runs only."""
    cuda_graphs: bool = False
    """Replay the forward pass of evaluation as one CUDA graph instead of launching each kernel. It helps where the CPU limits
    validation: small networks, small batches. The graph keeps its memory between validations. No effect in training, or without
    a GPU."""
    devices: int | Annotated[str, Field(pattern=r"^(auto|\d+(,\d+)*,?)$")] = "auto"
    """Number of devices of each node, or the numbers of GPUs as "0,2"; auto: all GPUs, or one CPU process; -1: all GPUs. Under
    torchrun and srun, which start the processes, auto and 1 take one device per process."""
    num_nodes: int = Field(default=1, ge=1)
    """Number of machines. torchrun and srun know it: there 1 takes all of their nodes."""
    strategy: str = "auto"
    """Strategy by which several devices share the work, by Lightning's name; auto: ddp with several processes."""
    stuck_rank_minutes: float = Field(default=30.0, gt=0)
    """End a run of several ranks if one does not answer for this time, because its process is stopped, or if it begins no further
    batch for this time while another rank waits for it. A rank that has died ends the run within a minute in any case."""
    requeue: bool = True
    """After SIGUSR1, put a SLURM job that was started with resume=auto into the queue again."""
    log_every_n_steps: int = Field(default=10, ge=1)
    """Training steps from one logged loss to the next."""
    max_time: str | None = None
    """Stop after this time of training, DD:HH:MM:SS, and leave a last.ckpt that resumes exactly there. A resumed run has the whole
    time again. The learning-rate schedule does not take it into account."""
    save_every_minutes: float | None = Field(default=10.0, gt=0)
    """Longest time between two writes of last.ckpt during training; null: at the end of epochs only."""
    save_every_n_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps from one write of last.ckpt to the next; null: by time only."""
    save_every_n_epochs: int = Field(default=1, ge=1)
    """Epochs from one write of last.ckpt to the next. The last epoch is always saved."""
    fast_dev_run: bool = False
    """Run one training and one validation batch, to see whether everything works."""

    @field_validator("devices")
    @classmethod
    def _some_device(cls, devices: int | str) -> int | str:
        if isinstance(devices, int) and devices < 1 and devices != -1:
            raise ValueError("at least 1, or -1 for all")
        return devices

    @field_validator("max_time")
    @classmethod
    def _is_duration(cls, max_time: str | None) -> str | None:
        if max_time is not None and not re.fullmatch(r"\d\d:\d\d:\d\d:\d\d", max_time, re.ASCII):
            raise ValueError("expected DD:HH:MM:SS, such as 00:08:00:00 for eight hours")
        return max_time


class WandbConfig(Section):
    """Weights & Biases."""

    enabled: bool = False
    """Log to Weights & Biases. Needs the extra: uv sync --extra wandb."""
    project: str = "dali-dbnet"
    """Project on Weights & Biases."""
    entity: str | None = None
    """User or team that owns the project; null: that of the login."""
    tags: tuple[str, ...] = ()
    """Tags of the run."""
    id: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_-]{1,64}$")
    """Id of the run to continue or to create; null: a new one, which a run that resumes in its own folder finds in wandb_id.txt."""
    offline: bool = False
    """Write to wandb/ in the run's folder only; `wandb sync` uploads it later."""


class LoggerConfig(Section):
    """Loggers and pictures of a run."""

    tensorboard: bool = True
    """Write TensorBoard events."""
    csv: bool = True
    """Write metrics.csv."""
    wandb: WandbConfig = WandbConfig()
    num_pictures: int = Field(default=4, ge=0)
    """Number of validation images drawn after each validation, the worst first, and of training samples shown at the start."""


class DataSection(Section):
    """Location of the data; shared by all commands."""

    dataset_base_path: str = NOT_SET
    """Root folder of the data set."""
    draw_synthetic: bool = False
    """Draw the synthetic data set into dataset_base_path, unless it is there (data=synthetic)."""
    synthetic: SyntheticConfig = SyntheticConfig()
    datasets: DatasetsConfig = DatasetsConfig()

    def needs_root(self) -> bool:
        """Returns whether dataset_base_path must be a folder: all files lie below it, it is no URL, and nothing draws them."""
        if self.dataset_base_path == NOT_SET or self.draw_synthetic or "://" in self.dataset_base_path:
            return False
        root = Path(self.dataset_base_path).absolute()
        paths = [Path(path).absolute() for path in self.datasets.paths()]
        return bool(paths) and all(root in path.parents for path in paths)


class TrainConfig(DataSection):
    """Configuration of scripts/train.py."""

    exp_name: str = "dbnet"
    """Name of the run's folder below outputs/."""
    seed: int = Field(default=42, ge=0, lt=2**32)
    """Seed of the initial weights, the order of the images and their augmentation."""
    device: Device = "auto"
    """auto: a GPU if there is one."""
    loader: LoaderName = "dali"
    """dali: DALI reads, decodes and augments. torch: PyTorch workers do, with the same samples; the plain baseline. webdataset: the
    images come from the tar shards of each split (`shards`), through DALI or PyTorch workers (dataloader.shard_reader)."""
    metric: Literal["icdar", "cleval"] = "icdar"
    """Metric of val/hmean, which selects the best checkpoint: boxes with an IoU above 0.5 (ICDAR), or characters (CLEval)."""
    init_from: str | None = None
    """Weights to begin with: a checkpoint of this trainer, a .safetensors file of scripts/export.py, or small, the weights that
    come with this package. Network and head are loaded (the averaged weights where the checkpoint has them), and nothing else: the
    run is a new one. Settings of the network that are not given are taken from the file."""
    resume: str | None = None
    """Checkpoint to resume from, even in the middle of an epoch. auto: the newest whole checkpoint of the run's own folder; without
    one the run starts from the beginning. Settings that are not given are taken from the checkpoint."""
    resume_anyway: bool = False
    """Resume although settings or data differ from those of the checkpoint."""
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
        """Reader and decoder of the images: DALI, or PyTorch workers."""
        if self.loader != "webdataset":
            return self.loader
        return "dali" if self.dataloader.shard_reader == "dali" else "torch"

    @model_validator(mode="after")
    def _shuffle_block_is_chosen(self) -> "TrainConfig":
        """Replaces dataloader.shuffle_block=0 by the number that it stands for, if the training data are known.

        The number is saved with the run: resumed from another copy of its data, the run keeps its order.
        """
        split = self.datasets.train_dataset.config
        if not self.dataloader.shuffle_block and split.image_path != NOT_SET:
            reads_ranges = self.loader == "webdataset" and self.engine == "dali" and "://" in (split.shards or "")
            block = REMOTE_SHUFFLE_BLOCK if reads_ranges else 1
            dataloader = self.dataloader.model_copy(update={"shuffle_block": block})
            object.__setattr__(self, "dataloader", dataloader)  # the section is frozen, but not yet complete
        return self

    @model_validator(mode="after")
    def _search_begins_a_run(self) -> "TrainConfig":
        if self.trainer.lr_find_steps is not None and self.resume is not None:
            raise ValueError(
                "trainer.lr_find_steps looks for the learning rate of a new run and would not load the checkpoint of resume; leave "
                "resume out, and give init_from=FILE to begin with its weights"
            )
        return self

    @model_validator(mode="after")
    def _full_precision_needs_float32_images(self) -> "TrainConfig":
        if self.trainer.precision == "32-true" and self.pipeline.output_dtype == "float16":
            raise ValueError("trainer.precision=32-true needs pipeline.output_dtype=auto or float32, not float16")
        return self


def _all_optional(section: type[Section], name: str) -> type[Section]:
    """Returns a section with the same fields, all null by default: overrides of the values in a checkpoint."""
    fields: dict[str, Any] = {}
    for key, field in section.model_fields.items():
        fields[key] = (Optional[field.rebuild_annotation()], None)  # noqa: UP045  # known at run time only
    return create_model(name, __base__=Section, **fields)


if TYPE_CHECKING:
    PostprocessOverrides = Section
else:
    PostprocessOverrides = _all_optional(PostprocessConfig, "PostprocessOverrides")


class InferenceConfig(DataSection):
    """Keys of both evaluate.py and predict.py. null: the value the checkpoint was trained with, unless a key says otherwise.

    A checkpoint describes its network, preprocessing and data set. Caches, threads, workers and the like have their defaults.
    """

    checkpoint: str = NOT_SET
    """A .ckpt file of a run, with its network and preprocessing; a .safetensors or .onnx file of scripts/export.py; or small, the
    weights that come with this package."""
    device: Device = "auto"
    """auto: a GPU if there is one."""
    loader: LoaderName | None = None
    """Loader, as in training."""
    batch_size: int | None = Field(default=None, ge=1)
    """Images per forward pass; null: as many as suit this device (dataloader.eval_batch_size=0)."""
    precision: Precision | None = None
    """Precision of the forward pass, as in trainer.precision."""
    image_size: int | None = Field(default=None, ge=32, multiple_of=32)
    """Longest side of the input in pixels."""
    tile: Tile = "none"
    """Large pages in overlapping tiles, whose maps are joined into one. none: each page as a whole. auto: in tiles where its text
    would be less than 8 pixels high at image_size, at a scale that shows it. A number: side of a tile in pixels of the image; each
    tile is scaled to image_size, and smaller pages stay whole."""
    rotations: Rotations = "none"
    """Pages on their side. none: as they are. auto: [0,90]. Numbers such as [0,90,180,270]: the clockwise turn of
    these at which the lines of text are longest, or the first one unless another's are clearly longer. A detector cannot tell
    upside-down text from upright text. Polygons are in pixels of the page before the turn. Each turn but 0 costs one more pass."""
    postprocess: PostprocessOverrides = PostprocessOverrides()

    @model_validator(mode="after")
    def _checkpoint_is_given(self) -> "InferenceConfig":
        if self.checkpoint == NOT_SET:
            raise ValueError(_CHECKPOINT_NEEDED)
        return self


class ReportConfig(Section):
    """report.html of an evaluation. Nothing in it grows with the data set beyond these numbers."""

    num_images: int = Field(default=24, ge=0, le=500)
    """Number of images that are shown, the worst first, and of probability maps that are kept in worst_maps/."""
    num_rows: int = Field(default=2000, ge=1)
    """Number of images in the tables, the worst first."""
    picture_side: int = Field(default=1280, ge=64)
    """Longest side of a picture in pixels; larger images are shown smaller."""


class EvaluateConfig(InferenceConfig):
    """Configuration of scripts/evaluate.py."""

    split: Literal["train", "val", "test"] = "test"
    """Split to evaluate; without data=..., of the data set the checkpoint was trained with."""
    compare: str | None = None
    """Another run on the same images that report.html puts beside this one: its folder, or its predictions.json."""
    report: ReportConfig = ReportConfig()


class PredictConfig(InferenceConfig):
    """Configuration of scripts/predict.py."""

    checkpoint: str = SHIPPED_WEIGHTS
    """A .ckpt file of a run, with its network and preprocessing; a .safetensors or .onnx file of scripts/export.py; or small, the
    weights that come with this package."""
    images: str | Annotated[tuple[str, ...], Field(min_length=1)] = NOT_SET
    """A folder, an image file, a pattern such as scans/*.jpg, a text file (.txt, .lst, .list) with one path a line, or a list of
    these: images=[a.jpg,b.tif]; not set: datasets.predict_dataset.config.image_path."""
    output: str = NOT_SET
    """Folder for predictions.json and the pictures; not set: the run's folder."""
    draw: bool = True
    """Save each image with its detections drawn on it."""


class ExportConfig(DataSection):
    """Configuration of scripts/export.py."""

    checkpoint: str = NOT_SET
    """A .ckpt file of a run, a .safetensors file of this command, or small, the weights that come with this package."""
    average: Annotated[list[str], BeforeValidator(_as_list)] = Field(default=[])
    """One more file of the same network, or a list of them. Their weights are averaged with those of `checkpoint` before anything
    else: the ends of trainings that began with the same weights, for example."""
    output: str = NOT_SET
    """File to write, .onnx, .pt2 or .safetensors by format; with format=triton a folder, the server's model repository."""
    format: Literal["onnx", "torch_export", "triton", "safetensors"] = "onnx"
    """onnx: for onnxruntime and others. torch_export: a program of torch.export. triton: an ONNX model in a repository for NVIDIA's
    Triton inference server. safetensors: the weights with their configuration and without a place of this machine, to pass on;
    `init_from` begins with them, and all commands take them in the place of a checkpoint."""
    precision: Literal["float32", "float16", "int8"] = "float32"
    """Precision of weights and arithmetic. int8: activations too, with ranges measured on training pictures. With
    format=safetensors only the precision of the stored kernels."""
    license: str | None = None
    """Licence of the weights, for the metadata of format=safetensors, for example Apache-2.0."""
    card: str | None = None
    """Text file about the weights, such as a model card in Markdown, for the metadata of format=safetensors."""
    uint8_input: bool = False
    """Take (B, H, W, 3) RGB levels and normalise them inside; false: (B, 3, H, W) normalised float32."""
    images: str = NOT_SET
    """Folder of pictures for the check against PyTorch, without annotations; not set: the validation set of the command's or the
    checkpoint's data set, and where that is missing drawn receipts."""
    num_images: int = Field(default=64, ge=1)
    """Largest number of pictures for the check, and for the calibration of int8; spread evenly over the data set."""
    max_hmean_loss: float | None = Field(default=None, ge=0, le=1)
    """Largest accepted loss of hmean against PyTorch, in each of several data sets too; null: 0.001 for float32, 0.002 for float16,
    0.01 for int8."""
    image_size: int | None = Field(default=None, ge=32, multiple_of=32)
    """Longest side of the input in pixels, for the check and in the metadata; null: as in training."""
    postprocess: PostprocessOverrides = PostprocessOverrides()

    @model_validator(mode="after")
    def _is_possible(self) -> "ExportConfig":
        if self.checkpoint == NOT_SET:
            raise ValueError(_CHECKPOINT_NEEDED)
        if self.output == NOT_SET:
            raise ValueError("output=FILE is needed, for example output=model.onnx")
        if self.format == "torch_export" and self.precision != "float32":
            raise ValueError(
                f"precision={self.precision}: format=torch_export has float32 only; use format=onnx or triton"
            )
        if self.format == "safetensors" and (self.precision == "int8" or self.uint8_input):
            raise ValueError(
                "format=safetensors holds weights in float32 or float16 and no graph; leave precision=int8 and uint8_input out, or "
                "use format=onnx"
            )
        if self.format != "safetensors" and (self.license or self.card):
            raise ValueError(f"license and card: format={self.format} has no place for them; use format=safetensors")
        return self


class PrepareConfig(DataSection):
    """Configuration of scripts/prepare_data.py. Sections that only training has are ignored, so that experiment=... works here."""

    model_config = ConfigDict(extra="ignore")

    output: str = NOT_SET
    """Folder of the prepared data set: a new one, or that of an earlier run. With canonical=false it may be dataset_base_path."""
    to: Literal["upstage", "paddleocr", "mmocr", "doctr", "coco"] = "upstage"
    """Format and layout of the written data set. Only upstage has target maps and shards."""
    splits: tuple[Literal["train", "val", "test"], ...] | None = Field(default=None, min_length=1)
    """Splits to prepare; null: all that exist."""
    canonical: bool = True
    """Turn images upright by their EXIF orientation, and their annotations with them; false: keep both as stored."""
    maps: bool = True
    """Write the target maps of val and test, for load_maps=true. They depend on pipeline.image_size and on the section targets."""
    shards: bool = False
    """Write the images as tar shards too, with annotations and index, for loader=webdataset."""
    shard_size: ByteSize = Field(default=ByteSize(256_000_000), gt=0)
    """Size of a shard, such as 256MB; the image that reaches it is the last one of its shard."""
    on_bad_sample: Literal["error", "skip"] | None = None
    """Handling of bad input in all splits; null: on_bad_sample of each split."""
    num_workers: int | None = Field(default=None, ge=1)
    """Number of threads; null: one per core."""
    pipeline: PipelineConfig = PipelineConfig()
    targets: TargetConfig = TargetConfig()

    @model_validator(mode="after")
    def _output_is_given(self) -> "PrepareConfig":
        if self.output == NOT_SET:
            raise ValueError("output=FOLDER is needed, for example output=data/prepared")
        return self

    @model_validator(mode="after")
    def _shards_are_of_our_format(self) -> "PrepareConfig":
        if self.to != "upstage" and self.shards:
            raise ValueError(f"shards=true: to={self.to} writes files only; leave shards or to out")
        return self


class InspectConfig(TrainConfig):
    """Configuration of scripts/inspect_data.py: the keys of train.py, which decide how the network sees the data, and these."""

    images: str = NOT_SET
    """A folder of images to look at without annotations, in place of the splits of the data set."""
    splits: tuple[Literal["train", "val", "test"], ...] | None = Field(default=None, min_length=1)
    """Splits to look at; null: all that exist."""
    output: str = NOT_SET
    """HTML file to write; not set: report.html in the run's folder."""
    png: bool = False
    """Write the pages as PNG sheets too, beside the HTML file. --png is the same."""
    num_images: int = Field(default=24, ge=1, le=500)
    """Number of images of each split that are shown, the hardest and strangest first."""
    num_samples: int = Field(default=8, ge=1, le=64)
    """Number of samples of each split that are shown as the network gets them."""
    num_compared: int = Field(default=2000, ge=0)
    """Number of images of each split that are searched for near duplicates in the other; 0: none."""


AnyConfig = TypeVar("AnyConfig", bound=Section)


def validate_config(config_class: type[AnyConfig], hydra_config: DictConfig) -> AnyConfig:
    """Returns the checked configuration. From here on there is no DictConfig.

    Raises:
        SystemExit: a key or value is wrong; the message names each.
    """
    try:
        values = OmegaConf.to_container(hydra_config, resolve=True)
    except InterpolationResolutionError as error:
        raise SystemExit(f"The configuration is wrong: {shown_lines(resolver_message(error))}") from None
    except OmegaConfBaseException as error:
        raise SystemExit(f"The configuration is wrong: {shown_lines(str(error))}") from None
    try:
        return config_class.model_validate(values)
    except ValidationError as error:
        lines = described_problems(error, keys_of(config_class))
        found = f" {lines[0]}" if len(lines) == 1 else "".join(f"\n  {line}" for line in lines)
        raise SystemExit(shown_lines(f"The configuration is wrong:{found}")) from None


def resolver_message(error: InterpolationResolutionError) -> str:
    """Returns the message of a resolver's own error, such as that of data=auto, in one line."""
    message = str(error).partition("\n")[0].partition("raised while resolving interpolation: ")
    return message[2] or message[0]


def flat_keys(values: Any, prefix: str = "") -> dict[str, Any]:
    """Returns the values of a nested dict by their keys, written with dots."""
    if not isinstance(values, dict):
        return {prefix[:-1]: values}
    return {key: value for name in values for key, value in flat_keys(values[name], f"{prefix}{name}.").items()}


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns values whose keys are written with dots as a nested dict; the inverse of `flat_keys`."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        *sections, name = key.split(".")
        section = result
        for part in sections:
            section = section.setdefault(part, {})
        section[name] = value
    return result


def keys_of(config_class: type[Section]) -> list[str]:
    """Returns all keys of a schema, written with dots."""
    return list(flat_keys(config_class.model_construct().model_dump(mode="json")))


def no_such_key(key: str, keys: Collection[str]) -> str:
    """Returns what to say about an unknown key: the nearest one among `keys`, and where all are listed."""
    name = key.rpartition(".")[2]
    elsewhere = [known for known in keys if known.endswith(f".{key}") or (known == name and known != key)]
    # A key of that very name belongs to another command.
    nearest = elsewhere or get_close_matches(key, [known for known in keys if known != key], 1, 0.8)
    return f"no such key; {f'the nearest is {nearest[0]}; ' if nearest else ''}the option --cfg job lists all keys"


def described_problems(error: ValidationError, keys: Collection[str] | None = None) -> list[str]:
    """Returns one line for each wrong value: its key, what is wrong with it, and what was found.

    Args:
        keys: all keys of the command, to name the nearest to an unknown one; None: the values are not those of a command line.
    """
    lines = []
    for item in error.errors():
        key = ".".join(map(str, item["loc"]))
        if item["type"] == "extra_forbidden":
            lines.append(f"{key}: {'no such key' if keys is None else no_such_key(key, keys)}")
            continue
        is_shown = not isinstance(item["input"], dict) and item["type"] != "missing"
        found = f" (found {item['input']!r})" if is_shown else ""
        of_key = f"{key}: " if key else ""  # a rule about several keys names them itself
        lines.append(f"{of_key}{item['msg'].removeprefix('Value error, ')}{found}")
    return lines
