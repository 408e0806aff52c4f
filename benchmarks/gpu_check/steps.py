"""The steps, the important ones first, and how long each may take."""

from dataclasses import replace

from benchmarks.gpu_check import judges
from benchmarks.gpu_check.runner import Step
from benchmarks.gpu_check.settings import CheckSettings

# The limits are for steps that hang: about twice what is expected of a GPU, where each step imports torch and DALI anew and each of
# its pipelines opens the JPEG engines. Where the budget ends first, the last steps are not begun.
_STEPS = (
    Step("environment", "machine, driver, versions, JPEG engines", 120, judges.environment, is_needed=True),
    Step("gpu_tests", "all tests marked gpu", 180, judges.gpu_tests, 30),
    Step("decode", "decoded pixels and speed, by chroma sampling", 100, judges.decode, 15),
    Step("targets", "target maps against the reference", 60, judges.targets, 10),
    Step("host_sync", "no host wait in a training step", 70, judges.host_sync, 15),
    Step("streams", "batches used late, beside freed memory overwritten", 75, judges.streams, 15),
    Step("damaged", "files that break after the audit", 70, judges.damaged, 10),
    Step("caches", "cache settings: scores, bytes, a cached epoch", 120, judges.caches, 25),
    Step("agreement", "one checkpoint evaluated in two ways", 60, judges.agreement, 15),
    Step("train_step", "training steps beside a replayed batch", 120, judges.train_step, 25),
    Step("precision", "fp32, fp16 and bf16 side by side", 180, judges.precision, 20),
    Step("memory", "peak of the memory in a run", 60, judges.memory, 15),
    Step("loaders", "loaders at all levels", 150, judges.loaders, 25),
    Step("receipts", "eight minutes of training on real receipts", 600, judges.receipts, 60, is_extra=True),
)
SHORT = ("environment", "decode", "host_sync", "streams", "damaged")
TIMES_LONGER_ON_CPU = 2
"""A step's limit without a GPU: processors differ more than GPUs, and may be shared."""


def names() -> list[str]:
    return [step.name for step in _STEPS]


def chosen_steps(settings: CheckSettings) -> list[Step]:
    """Those of one call, in their order. The first one is always there: the result names the machine.

    Raises:
        ValueError: `only` names a step that is not there.
    """
    wrong = [name for name in settings.only if name not in names()]
    if wrong:
        raise ValueError(f"--only {','.join(wrong)}: no such step; there are {', '.join(names())}")
    wanted = set(settings.only or (SHORT if settings.short else names()))
    if settings.receipts:
        wanted.add("receipts")
    elif not settings.only:
        wanted.discard("receipts")
    steps = [step for step in _STEPS if step.name in wanted or step.is_needed]
    if not settings.cpu:
        return steps
    return [step if step.is_extra else replace(step, seconds=TIMES_LONGER_ON_CPU * step.seconds) for step in steps]
