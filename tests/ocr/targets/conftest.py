"""The Triton kernel, run in Triton's interpreter."""

from collections.abc import Iterator

import pytest

from tests.ocr.targets.interpreted import InterpretedKernel


@pytest.fixture(scope="session")
def interpreted() -> Iterator[InterpretedKernel]:
    """Draws maps with the Triton kernel on the CPU."""
    pytest.importorskip("triton", reason="Triton is not installed: PyTorch is a build without CUDA")
    kernel = InterpretedKernel()
    yield kernel
    kernel.close()
