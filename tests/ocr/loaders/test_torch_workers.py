"""Workers that die, hang or find no room end the run with advice."""

import multiprocessing
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from dali_pipelines.config import PipelineConfig
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.plan import EpochPlan, SamplePlanner
from ocr.datasets.schemas import DatasetConfig
from ocr.errors import InputError, WorkerError
from ocr.loaders.engines import Engine, image_loader
from tests.ocr.loaders.batches import CPU


def dataset_of(root: Path) -> ValidatedOCRDataset:
    config = DatasetConfig(image_path=str(root / "images/val"), annotation_path=str(root / "jsons/val.json"))
    return ValidatedOCRDataset(config, SamplePlanner(PipelineConfig(image_size=64), training=False, seed=0))


def batches(dataset: ValidatedOCRDataset, num_workers: int, timeout: float = 0):
    engine = Engine("torch", CPU, num_workers, skip_failures=False, worker_timeout=timeout)
    loader = image_loader(dataset, engine, batch_size=1, levels=False, failures={})
    return loader.batches(EpochPlan(dataset.manifest, dataset.planner, epoch=0, batch_size=1))


def test_batches_that_do_not_fit_into_shared_memory_are_refused_before_workers_start(drawn):
    with pytest.raises(InputError, match=r"/dev/shm: .* MB are free; 1000000000 workers need .*--shm-size.*--ipc=host"):
        next(batches(dataset_of(drawn), 10**9))
    assert multiprocessing.active_children() == []


def test_a_worker_that_hangs_ends_the_run_within_the_timeout(copied):
    dataset = dataset_of(copied)
    path = Path(dataset.manifest.image_paths[0])
    path.unlink()
    os.mkfifo(path)  # like a file on a server that does not answer
    with pytest.raises(WorkerError, match=rf"within 1 s: a worker hangs.*{path.parent}.*dataloader.worker_timeout"):
        list(batches(dataset, 1, timeout=1))


def test_a_worker_that_is_killed_ends_the_run_with_advice(drawn):
    iterator = batches(dataset_of(drawn), 1)
    next(iterator)
    for worker in multiprocessing.active_children():
        worker.kill()
    with pytest.raises(WorkerError, match=r"a worker died: .*dataloader\.num_workers=0"):
        list(iterator)


class FaultyDataset(ValidatedOCRDataset):
    """Raises an error that no file and no dead process has caused."""

    def __init__(self, root: Path, error: Exception) -> None:
        whole = dataset_of(root)
        super().__init__(whole.config, whole.planner, manifest=whole.manifest)
        self.error = error

    def expect(self, indices: Sequence[int]) -> None:
        raise self.error


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("error", [RuntimeError("a fault of the program"), ConnectionError("a fault of the program")])
def test_an_error_of_the_program_in_a_worker_keeps_its_type(drawn, error, num_workers):
    with pytest.raises(type(error), match="a fault of the program"):
        next(batches(FaultyDataset(drawn, error), num_workers))
