"""Configuration of the loaders: batch sizes and worker processes."""

from pydantic import Field

from dali_pipelines.config import Section
from ocr.datasets.schemas import DEFAULT_SHARD_CONNECTIONS, ShardReader

REMOTE_SHUFFLE_BLOCK = 16
"""dataloader.shuffle_block=0 for shards in a bucket: with 32 connections and 0.1 s a request, 1,000 images a second and more."""


class DataLoaderConfig(Section):
    """Batch sizes and worker processes."""

    batch_size: int = Field(default=8, ge=1, le=2**16)
    """Training images per step and rank."""
    eval_batch_size: int = Field(default=0, ge=0, le=2**16)
    """Validation, test and prediction images per step and rank. 0: as many as suit the device, a power of two: at most 4 on a CPU
    and 32 on a GPU, fewer if they would take more than an eighth of the RAM or a quarter of the GPU's memory. The number changes
    the maps by rounding errors at most."""
    num_workers: int = Field(default=2, ge=0, le=1024)
    """Worker processes of loader=torch and shard_reader=webdataset; DALI has threads (pipeline.num_threads)."""
    worker_timeout: float = Field(default=300.0, ge=0)
    """Seconds to wait for a batch of a worker process before the run ends with advice; 0: for ever."""
    shuffle_block: int = Field(default=0, ge=0, le=4096)
    """Number of neighbouring training images that are shuffled as one block. 1: each image by itself. 0: 16 for shards in a bucket,
    where neighbours are fetched in one request, and 1 for everything else. The images of 32 blocks are mixed, so that a batch has
    few images of each."""
    shard_reader: ShardReader = "dali"
    """Reader of the tar shards of loader=webdataset: DALI, or the package webdataset (uv sync --extra webdataset) in the worker
    processes of loader=torch."""
    shard_connections: int = Field(default=DEFAULT_SHARD_CONNECTIONS, ge=1, le=1024)
    """Concurrent requests to s3:// per process that reads. The images in a second are at most this number divided by the seconds
    that a request takes, times the images of a request (dataloader.shuffle_block). A process makes about 700 requests a second."""
