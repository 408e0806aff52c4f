"""The settings that a sweep varies: their levels, their values, and the devices they exist on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from benchmarks.loaders.config import Level
from dali_pipelines.config import default_num_threads
from ocr.config import TrainConfig
from ocr.errors import InputError
from ocr.postprocess.pool import OrderedPool

Value = bool | int | float | str
JudgedBy = Literal["images_per_second", "first_epoch_seconds"]
AnyConfig = TypeVar("AnyConfig", bound=TrainConfig)

NO_GPU = "acts on a GPU only, and there is none here"


@dataclass(frozen=True)
class Factor:
    """One setting at one level."""

    key: str
    """As on the command line."""
    level: Level
    present: Value
    """Value in the configuration, `auto` resolved."""
    values: tuple[Value, ...]
    """Values to try."""
    judged_by: JudgedBy = "images_per_second"
    """first_epoch_seconds: for a setting that matters in the first epoch only."""
    caution: str = ""
    """Check to make before adopting a better value."""
    reason: str | None = None
    """Reason why it is not varied here."""

    @property
    def name(self) -> str:
        """Last part of the key."""
        return self.key.rpartition(".")[2]

    @property
    def title(self) -> str:
        """Unique name: a setting may act at several levels."""
        return f"{self.key} at {self.level}"


def factors_of(config: TrainConfig, device_type: str, precision: str, num_cores: int) -> list[Factor]:
    """Returns all factors; those that do not exist on this type of device have a reason.

    Args:
        precision: trainer.precision with `auto` resolved.
    """
    factors = [
        *_loader_factors(config, num_cores),
        *_network_factors(config, device_type, precision),
        _postprocess_factor(config, num_cores),
    ]
    on_gpu_only = ("pipeline.hw_decoder_load", "pipeline.preallocate_decoder", "trainer.cuda_graphs")
    return [
        replace(
            factor,
            values=tuple(value for value in factor.values if value != factor.present),
            reason=NO_GPU if device_type != "cuda" and factor.key in on_gpu_only else factor.reason,
        )
        for factor in factors
    ]


def _loader_factors(config: TrainConfig, num_cores: int) -> list[Factor]:
    pipeline = config.pipeline
    num_threads = pipeline.num_threads or default_num_threads()
    return [
        Factor("pipeline.hw_decoder_load", "input", pipeline.hw_decoder_load, (0.5, 0.65, 0.8, 1.0)),
        Factor("pipeline.num_threads", "input", num_threads, _up_to(num_cores, 1, 2, 4, 8, 16)),
        Factor("pipeline.prefetch_queue_depth", "input", pipeline.prefetch_queue_depth, (1, 2, 4)),
        Factor(
            "pipeline.preallocate_decoder",
            "input",
            pipeline.preallocate_decoder,
            (False, True),
            judged_by="first_epoch_seconds",
        ),
    ]


def _network_factors(config: TrainConfig, device_type: str, precision: str) -> list[Factor]:
    trainer = config.trainer
    on_gpu = device_type == "cuda"
    # Some processors emulate bfloat16, many times slower; `auto` resolves to 32-true on all that are not faster in it.
    only_float32 = None if on_gpu or precision != "32-true" else "this processor is not faster in bfloat16"
    precision_at = Factor(
        "trainer.precision",
        "train-step",
        precision,
        ("32-true", "16-mixed", "bf16-mixed") if on_gpu else ("32-true", "bf16-mixed"),
        caution="it changes the numbers: compare hmean",
        reason=only_float32,
    )
    compile_at = Factor("trainer.compile", "train-step", trainer.compile, (False, True))
    return [
        Factor("pipeline.output_layout", "train-step", config.pipeline.output_layout, ("CHW", "HWC")),
        Factor("trainer.channels_last", "train-step", trainer.channels_last, (True, False)),
        precision_at,
        compile_at,
        replace(precision_at, level="val-epoch"),
        replace(compile_at, level="val-epoch"),
        Factor("trainer.cuda_graphs", "val-epoch", trainer.cuda_graphs, (False, True)),
    ]


def _postprocess_factor(config: TrainConfig, num_cores: int) -> Factor:
    pool: OrderedPool[Any] = OrderedPool(config.postprocess.num_workers, config.postprocess.max_pending)
    pool.close()
    return Factor("postprocess.num_workers", "val-epoch", pool.num_workers, _up_to(num_cores, 0, 1, 2, 4, 8))


def _up_to(limit: int, *numbers: int) -> tuple[int, ...]:
    return tuple(number for number in numbers if number <= limit)


def chosen_factors(factors: Sequence[Factor], only: Sequence[str]) -> list[Factor]:
    """Returns the factors whose name is in `only`; all if it is empty.

    Raises:
        InputError: a name fits no factor.
    """
    names = list(dict.fromkeys(factor.name for factor in factors))
    wrong = [name for name in only if name not in names]
    if wrong:
        raise InputError(f"only={','.join(wrong)}: no such setting; there are {', '.join(names)}")
    return [factor for factor in factors if not only or factor.name in only]


def varied(config: AnyConfig, values: Mapping[str, Value]) -> AnyConfig:
    """Returns the configuration with these keys set.

    Raises:
        pydantic.ValidationError: the configuration refuses them.
    """
    document: dict[str, Any] = config.model_dump(mode="json")
    for key, value in values.items():
        *sections, name = key.split(".")
        section = document
        for part in sections:
            section = section[part]
        section[name] = value
    return type(config).model_validate(document)
