"""The settings that a sweep varies: at which level each acts, which values are tried, and where it exists."""

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
    """What the configuration gives here, `auto` resolved."""
    values: tuple[Value, ...]
    """Tried beside it."""
    judged_by: JudgedBy = "images_per_second"
    """first_epoch_seconds: what it is about happens in the first epoch only."""
    caution: str = ""
    """What else to look at before a better value is taken."""
    reason: str | None = None
    """Why it is not varied here."""

    @property
    def name(self) -> str:
        return self.key.rpartition(".")[2]

    @property
    def title(self) -> str:
        """Unique: a setting may act at several levels."""
        return f"{self.key} at {self.level}"


def factors_of(config: TrainConfig, device_type: str, precision: str, num_cores: int) -> list[Factor]:
    """All of them, those that do not exist on this type of device with the reason.

    Args:
        precision: what trainer.precision is here.
    """
    pipeline, trainer = config.pipeline, config.trainer
    on_gpu = device_type == "cuda"
    no_gpu = None if on_gpu else NO_GPU
    precisions = ("32-true", "16-mixed", "bf16-mixed") if on_gpu else ("32-true", "bf16-mixed")
    # A processor without bfloat16 arithmetic imitates it, many times slower: `auto` has looked.
    only_float32 = None if on_gpu or precision != "32-true" else "this processor does not compute in bfloat16"
    numbers_change = "it changes the numbers: compare hmean"
    pool: OrderedPool[Any] = OrderedPool(config.postprocess.num_workers, config.postprocess.max_pending)
    num_workers = pool.num_workers
    pool.close()
    factors = [
        Factor("pipeline.hw_decoder_load", "input", pipeline.hw_decoder_load, (0.5, 0.65, 0.8, 1.0), reason=no_gpu),
        Factor(
            "pipeline.num_threads",
            "input",
            pipeline.num_threads or default_num_threads(),
            tuple(number for number in (1, 2, 4, 8, 16) if number <= num_cores),
        ),
        Factor("pipeline.prefetch_queue_depth", "input", pipeline.prefetch_queue_depth, (1, 2, 4)),
        Factor(
            "pipeline.preallocate_decoder",
            "input",
            pipeline.preallocate_decoder,
            (False, True),
            judged_by="first_epoch_seconds",
            reason=no_gpu,
        ),
        Factor("pipeline.output_layout", "train-step", pipeline.output_layout, ("CHW", "HWC")),
        Factor("trainer.channels_last", "train-step", trainer.channels_last, (True, False)),
        Factor("trainer.precision", "train-step", precision, precisions, caution=numbers_change, reason=only_float32),
        Factor("trainer.compile", "train-step", trainer.compile, (False, True)),
        Factor("trainer.precision", "val-epoch", precision, precisions, caution=numbers_change, reason=only_float32),
        Factor("trainer.compile", "val-epoch", trainer.compile, (False, True)),
        Factor("trainer.cuda_graphs", "val-epoch", trainer.cuda_graphs, (False, True), reason=no_gpu),
        Factor(
            "postprocess.num_workers",
            "val-epoch",
            num_workers,
            tuple(number for number in (0, 1, 2, 4, 8) if number <= num_cores),
        ),
    ]
    return [_without_present(factor) for factor in factors]


def _without_present(factor: Factor) -> Factor:
    return replace(factor, values=tuple(value for value in factor.values if value != factor.present))


def chosen_factors(factors: Sequence[Factor], only: Sequence[str]) -> list[Factor]:
    """Those whose name is one of `only`; all of them if there is none.

    Raises:
        InputError: a name fits no factor.
    """
    names = list(dict.fromkeys(factor.name for factor in factors))
    wrong = [name for name in only if name not in names]
    if wrong:
        raise InputError(f"only={','.join(wrong)}: no such setting; there are {', '.join(names)}")
    return [factor for factor in factors if not only or factor.name in only]


def varied(config: AnyConfig, values: Mapping[str, Value]) -> AnyConfig:
    """The configuration with these keys set.

    Raises:
        pydantic.ValidationError: it cannot be.
    """
    document: dict[str, Any] = config.model_dump(mode="json")
    for key, value in values.items():
        *sections, name = key.split(".")
        section = document
        for part in sections:
            section = section[part]
        section[name] = value
    return type(config).model_validate(document)
