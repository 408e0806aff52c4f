"""Chooses and builds the DALI graph of a split: train.py or eval.py on a GPU, cpu.py without one."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from nvidia.dali import types
from nvidia.dali.pipeline import Pipeline

from dali_pipelines import steps
from dali_pipelines.config import PipelineConfig, default_num_threads
from dali_pipelines.cpu import cpu_pipeline
from dali_pipelines.decode import decode_pipeline
from dali_pipelines.eval import eval_pipeline
from dali_pipelines.train import train_pipeline

_GENERATED = "__autograph_generated_file"
"""Beginning of the names of the modules that DALI's AutoGraph makes from the graphs and steps (DALI 2.4,
nvidia/dali/_autograph/pyct/loader.py)."""
_DALI_TYPE = {torch.float16: types.FLOAT16, torch.float32: types.FLOAT, torch.uint8: types.UINT8}


@dataclass(frozen=True)
class GraphBuilder:
    """Builds pipelines for one split on one device."""

    config: PipelineConfig
    training: bool
    """On a GPU: the training graph (crop, warp, colour) or the evaluation graph (letterbox). A CPU has one graph for both."""
    device: torch.device
    dtype: torch.dtype
    """Data type of the network's input; uint8 leaves RGB levels as they are. On a CPU the loader converts, not the graph."""
    largest_stored: tuple[int, int] | None = None
    """(H, W) that no file exceeds as it is stored; None if unknown."""

    def build(self, feed: steps.Feed, batch_size: int) -> Pipeline:
        """Builds the pipeline that makes inputs on a GPU, or decodes on a CPU; this starts its threads and allocates its memory."""
        shared = {"feed": feed, "config": self.config, "batch_size": batch_size, **self._resources()}
        if self.device.type == "cuda":
            graph = train_pipeline if self.training else eval_pipeline
            dtype = _DALI_TYPE[self.dtype]
            pipeline = graph(on_gpu=True, dtype=dtype, largest_stored=self.largest_stored, **shared)
        else:
            pipeline = cpu_pipeline(**shared)
        _remove_generated_files()
        pipeline.build()
        return pipeline

    def build_decoder(self, next_batch: steps.NextBatch, *, is_path: bool) -> Pipeline:
        """Returns a pipeline that only decodes, one image at a time; see `decode_pipeline`. It is built by its first run."""
        pipeline = decode_pipeline(
            next_batch=next_batch,
            config=self.config,
            on_gpu=self.device.type == "cuda",
            is_path=is_path,
            batch_size=1,
            **self._resources(),
        )
        _remove_generated_files()
        return pipeline

    def _resources(self) -> dict[str, Any]:
        return {
            "num_threads": self.config.num_threads or default_num_threads(),
            "device_id": (self.device.index or 0) if self.device.type == "cuda" else None,
            "prefetch_queue_depth": self.config.prefetch_queue_depth,
        }


def _remove_generated_files() -> None:
    """Removes the source files of AutoGraph's modules, which are loaded by now, and their byte code, from the temporary folder.

    DALI removes the sources when the interpreter ends, which a killed process and a forked one do not come to, and the byte code
    never. Errors of a graph name the lines of the original functions, so nobody reads the files again.
    """
    for name, module in list(sys.modules.items()):
        if name.startswith(_GENERATED) and module.__spec__ is not None:
            for file in (module.__spec__.origin, module.__spec__.cached):
                if file is not None:
                    Path(file).unlink(missing_ok=True)
