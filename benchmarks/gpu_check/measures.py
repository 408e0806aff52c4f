"""What the worker can run, by the name of the step."""

from benchmarks.gpu_check import (
    agreement,
    caches,
    damaged,
    decode,
    environment,
    gpu_tests,
    host_sync,
    loaders,
    memory,
    precision,
    receipts,
    streams,
    target_maps,
)
from benchmarks.gpu_check.figures import Measure

MEASURES: dict[str, Measure] = {
    "environment": environment.measure,
    "gpu_tests": gpu_tests.measure,
    "decode": decode.measure,
    "targets": target_maps.measure,
    "host_sync": host_sync.measure,
    "streams": streams.measure,
    "damaged": damaged.measure,
    "caches": caches.measure,
    "agreement": agreement.measure,
    "precision": precision.measure,
    "train_step": loaders.measure_steps,
    "loaders": loaders.measure_levels,
    "memory": memory.measure,
    "receipts": receipts.measure,
}
