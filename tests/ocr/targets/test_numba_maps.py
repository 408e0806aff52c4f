from dataclasses import fields

import numpy as np
import torch

from ocr.targets.agreement import random_polygons
from ocr.targets.config import TargetConfig
from ocr.targets.numba_maps import make_targets_numba


def test_number_of_threads_does_not_change_the_maps() -> None:
    batch = random_polygons(np.random.default_rng(0), num_images=5, polygons_per_image=10, size=(128, 128))
    one, three = (make_targets_numba(batch, (128, 128), TargetConfig(), num_threads) for num_threads in (1, 3))
    for field in fields(one):
        assert torch.equal(getattr(one, field.name), getattr(three, field.name)), field.name
