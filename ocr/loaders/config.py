"""Batch sizes, and the workers that are not DALI's."""

from typing import Literal

from pydantic import Field

from dali_pipelines.config import Section

ShardReader = Literal["dali", "webdataset"]


class DataLoaderConfig(Section):
    batch_size: int = Field(default=8, ge=1)
    """Training images a step on each rank."""
    eval_batch_size: int = Field(default=4, ge=1)
    """Validation, test and prediction images a step on each rank."""
    num_workers: int = Field(default=2, ge=0)
    """Worker processes of loader=torch and shard_reader=webdataset; DALI has threads (pipeline.num_threads)."""
    shard_reader: ShardReader = "dali"
    """Who reads the tar shards of loader=webdataset: DALI, or the package webdataset (uv sync --extra webdataset) in worker
    processes as of loader=torch."""
