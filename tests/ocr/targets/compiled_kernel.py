"""Compiles the Triton kernel for NVIDIA GPUs that need not be there; prints, as JSON, what it takes on each."""

import json
import re
import subprocess
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ocr.targets.triton_maps import LAUNCH_OPTIONS, TILE, draw_tile

TYPES = {
    "words": "*i32",
    "num_polygons": "i32",
    "maps": "*fp32",
    "num_rows": "i32",
    "num_cols": "i32",
    "thresh_min": "fp32",
    "thresh_range": "fp32",
    "STRIDE": "constexpr",
    "TILE_ROWS": "constexpr",
    "TILE_COLS": "constexpr",
}
CONSTANTS = {"STRIDE": 1, "TILE_ROWS": TILE[0], "TILE_COLS": TILE[1]}
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


def needs_on(architecture: int) -> dict[str, int]:
    """Returns registers of a thread, bytes that it spills, and bytes of shared memory of a program."""
    source = ASTSource(draw_tile, TYPES, CONSTANTS, {(place,): [["tt.divisibility", 16]] for place in (0, 2)})
    kernel = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=LAUNCH_OPTIONS)
    assert f".target sm_{architecture}" in kernel.asm["ptx"]
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [CUOBJDUMP, "--dump-resource-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack, local = (int(re.search(rf"{name}:(\d+)", usage)[1]) for name in ("REG", "STACK", "LOCAL"))
    return {"registers": registers, "spilled_bytes": stack + local, "shared_bytes": kernel.metadata.shared}


if __name__ == "__main__":
    print(json.dumps({architecture: needs_on(architecture) for architecture in (80, 90, 100)}))
