import re
from typing import Any

import pytest
import torch

from benchmarks.gpu_check import environment
from benchmarks.gpu_check.settings import CheckSettings
from ocr.errors import InputError


def test_the_machine_and_the_library_that_decodes_are_named():
    kept: list[dict[str, Any]] = []
    environment.measure(CheckSettings(output="-", cpu=True), kept.append)
    # A wheel of PyPI leaves out in its name what it was built for, one of PyTorch's own index does not.
    assert kept[0]["versions"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert re.fullmatch(r"\d+\.\d+\.\d+", kept[0]["nvjpeg"])
    assert kept[0]["dali_cuda"].startswith("12.")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_what_to_do():
    with pytest.raises(InputError, match="torch sees no CUDA device; add --cpu"):
        environment.measure(CheckSettings(output="-"), lambda _: None)


@pytest.mark.gpu
def test_a_gpu_tells_its_driver_and_engines():
    kept: list[dict[str, Any]] = []
    environment.measure(CheckSettings(output="-"), kept.append)
    assert re.fullmatch(r"\d+\.\d+(\.\d+)?", kept[0]["driver"])
    assert kept[0]["jpeg_engines"]["nvjpeg"]
