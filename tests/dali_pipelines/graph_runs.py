"""Runs the GPU's graphs with DALI's CPU operators on odd pictures, and computes what they have to return."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from nvidia.dali import types
from nvidia.dali.pipeline import Pipeline

from dali_pipelines import steps
from dali_pipelines.config import AugmentationConfig, PipelineConfig
from dali_pipelines.eval import eval_pipeline
from dali_pipelines.geometry import letterbox_size, rotation, scaling, slant, translation
from dali_pipelines.train import train_pipeline
from tests.dali_pipelines import graph_oracle

SIZE = 64
DTYPES = {"float16": types.FLOAT16, "float32": types.FLOAT, "uint8": types.UINT8}


def perspective_pipeline(*, config: PipelineConfig, **arguments: Any) -> Pipeline:
    """Returns the training graph for images in perspective."""
    in_perspective = config.model_copy(update={"augmentation": AugmentationConfig(perspective=0.3)})
    return train_pipeline(config=in_perspective, **arguments)


@dataclass(frozen=True)
class Numbers:
    """The numbers of one sample, as a graph receives them; see `steps.TrainSource`."""

    start_yx: npt.NDArray[np.float32]
    end_yx: npt.NDArray[np.float32]
    resized_size: tuple[int, int]
    input_from_resized: npt.NDArray[np.float32]
    colour_matrix: npt.NDArray[np.float32]
    colour_offset: npt.NDArray[np.float32]


def numbers_of(image_size: tuple[int, int], number: int, graph: Callable[..., Pipeline]) -> Numbers:
    """Returns the numbers of one image. In training: a part of it, other scales for each axis, rotation, shift and colours."""
    training = graph is not eval_pipeline
    rng = np.random.default_rng(number)
    height, width = image_size
    if training:
        start = np.array([height // 7, width // 5], np.float32)
        end = np.array([height - height // 9, width - width // 6], np.float32)
        resized = (int(rng.integers(20, 70)), int(rng.integers(20, 70)))
    else:
        start, end = np.zeros(2, np.float32), np.array([height, width], np.float32)
        resized = letterbox_size(image_size, SIZE)
    flipped = scaling(-1, 1) if number % 2 else scaling(1, 1)
    centre = translation(SIZE / 2 + rng.uniform(-6, 6), SIZE / 2 + rng.uniform(-6, 6))
    matrix = centre @ rotation(rng.uniform(4, 25)) @ flipped @ translation(-resized[1] / 2, -resized[0] / 2)
    num_rows = 2
    if graph is perspective_pipeline:
        middle, num_rows = translation(SIZE / 2, SIZE / 2), 3
        matrix = middle @ slant(*rng.uniform(0.1, 0.25, 2) / SIZE) @ np.linalg.inv(middle) @ matrix
    colours = np.eye(3) + rng.uniform(-0.25, 0.25, (3, 3))
    return Numbers(
        start,
        end,
        resized,
        matrix[:num_rows].astype(np.float32),
        colours.astype(np.float32),
        rng.uniform(-40, 40, 3).astype(np.float32),
    )


def config(layout: str) -> PipelineConfig:
    """Returns a configuration whose means and deviations are large enough to tell every level, and all different."""
    return PipelineConfig(image_size=SIZE, output_layout=layout, mean=(120.0, 100.0, 80.0), std=(50.0, 60.0, 70.0))


def run(
    graph: Callable[..., Pipeline],
    files: Sequence[Path],
    layout: str = "CHW",
    dtype: str = "float32",
    stored_sizes: Sequence[tuple[int, int]] | None = None,
) -> tuple[str, npt.NDArray[np.generic]]:
    """Returns layout and output of a GPU's graph, run by DALI's CPU operators on all files as one batch.

    stored_sizes: (H, W) that each file must state; None: any.
    """
    training = graph is not eval_pipeline
    samples = [numbers_of(graph_oracle.upright(file).shape[:2], number, graph) for number, file in enumerate(files)]
    fields: list[list[npt.NDArray[np.generic]]] = [
        [np.frombuffer(os.fsencode(file), np.uint8) for file in files],
        [sample.start_yx for sample in samples],
        [sample.end_yx for sample in samples],
        [np.array(sample.resized_size, np.float32) for sample in samples],
        [np.array(stored_size, np.int64) for stored_size in stored_sizes or [(0, 0)] * len(files)],
    ]
    if training:
        fields.append([sample.input_from_resized for sample in samples])
        fields.append([sample.colour_matrix for sample in samples])
        fields.append([sample.colour_offset for sample in samples])
    pipeline = graph(
        feed=steps.Feed(lambda: tuple(fields)),
        config=config(layout),
        on_gpu=False,
        dtype=DTYPES[dtype],
        batch_size=len(files),
        num_threads=1,
        device_id=None,
        prefetch_queue_depth=1,
    )
    (images,) = pipeline.run()
    if not images.is_dense_tensor():
        return f"{images.layout()}, images of several sizes", np.zeros(0)
    return images.layout(), images.as_array()


def expected(files: Sequence[Path], graph: Callable[..., Pipeline]) -> npt.NDArray[np.float64]:
    """Returns the RGB levels that the graph has to return, (B, 3, SIZE, SIZE)."""
    images = []
    for number, file in enumerate(files):
        original = graph_oracle.upright(file)
        sample = numbers_of(original.shape[:2], number, graph)
        image = graph_oracle.resize(original, sample.start_yx, sample.end_yx, sample.resized_size)
        if graph is not eval_pipeline:
            image = graph_oracle.warp(image, sample.input_from_resized, SIZE)
            image = graph_oracle.recolour(image, sample.colour_matrix, sample.colour_offset)
        images.append(graph_oracle.pad(image, SIZE))
    return np.stack(images).transpose(0, 3, 1, 2)


def levels(images: npt.NDArray[np.generic], layout: str, dtype: str) -> npt.NDArray[np.float64]:
    """Returns the RGB levels of a graph's output, (B, 3, SIZE, SIZE)."""
    planes = images.astype(np.float64)
    if layout == "HWC":
        planes = planes.transpose(0, 3, 1, 2)
    if dtype == "uint8":
        return planes
    mean, std = (np.array(values)[:, None, None] for values in (config(layout).mean, config(layout).std))
    return planes * std + mean


WORST_LEVELS = 2.1
"""Rounding after the resize may differ by a level, which the colours make two; float16 adds a tenth."""
MEAN_LEVELS = 0.03
"""On average over one picture. float32 and uint8 stay below 0.001."""


def disagreement(
    graph: Callable[..., Pipeline], files: Sequence[Path], layout: str = "CHW", dtype: str = "float32"
) -> str | None:
    """Returns how the graph's output differs from the oracle's; None if they agree."""
    found_layout, images = run(graph, files, layout, dtype)
    if (found_layout, str(images.dtype)) != (layout, dtype):
        return f"layout {found_layout}, dtype {images.dtype}; expected {layout}, {dtype}"
    found, exact = levels(images, layout, dtype), expected(files, graph)
    if found.shape != exact.shape:
        return f"shape {found.shape}, expected {exact.shape}"
    for file, difference in zip(files, np.abs(found - exact), strict=True):
        if difference.max() > WORST_LEVELS or difference.mean() > MEAN_LEVELS:
            return f"{file.name}: {difference.max():.2f} levels at worst, {difference.mean():.3f} on average"
    return None
