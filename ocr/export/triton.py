"""Writes a model repository for NVIDIA's Triton inference server.

OUTPUT/dbnet/config.pbtxt     inputs, outputs, dynamic batching
OUTPUT/dbnet/1/model.onnx     the network
OUTPUT/dbnet/metadata.json    what preprocessing and postprocessing need
OUTPUT/dbnet/client.py        an example that sends pictures and prints polygons
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from ocr.errors import InputError
from ocr.onnx_network import INPUT_NAME, OUTPUT_NAME

MODEL_NAME = "dbnet"
MAX_BATCH_SIZE = 8
"""Largest batch that the server makes of requests. It is a line of config.pbtxt, to be changed there."""
QUEUE_DELAY_MICROSECONDS = 2000
"""Longest time that a request waits for others to form a batch."""
CLIENT = Path(__file__).with_name("triton_client.py")


def check_output(output: Path) -> None:
    """Raises InputError if there is a model of this name in the repository."""
    if (output / MODEL_NAME).exists():
        raise InputError(f"output={output}: holds a model {MODEL_NAME} already; choose another folder, or remove it")
    if output.exists() and not output.is_dir():
        raise InputError(f"output={output}: found a file, expected a folder")


def write_repository(output: Path, onnx_file: Path, metadata: Mapping[str, str], uint8_input: bool) -> None:
    """Writes the repository below `output`, completely or not at all.

    Args:
        onnx_file: the checked network.
        metadata: as in the .onnx file.
    """
    building = output / f".{MODEL_NAME}.part"
    shutil.rmtree(building, ignore_errors=True)
    try:
        (building / "1").mkdir(parents=True)
        shutil.copyfile(onnx_file, building / "1/model.onnx")
        shutil.copyfile(CLIENT, building / "client.py")
        (building / "metadata.json").write_text(json.dumps(dict(metadata), indent=1))
        (building / "config.pbtxt").write_text(server_config(uint8_input))
        building.rename(output / MODEL_NAME)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def server_config(uint8_input: bool) -> str:
    """Returns config.pbtxt. Dimensions are those of one image; the server adds the batch."""
    data_type, dims = ("TYPE_UINT8", "[ -1, -1, 3 ]") if uint8_input else ("TYPE_FP32", "[ 3, -1, -1 ]")
    return f"""name: "{MODEL_NAME}"
backend: "onnxruntime"
max_batch_size: {MAX_BATCH_SIZE}
input [
  {{
    name: "{INPUT_NAME}"
    data_type: {data_type}
    dims: {dims}
  }}
]
output [
  {{
    name: "{OUTPUT_NAME}"
    data_type: TYPE_FP32
    dims: [ -1, -1 ]
  }}
]
dynamic_batching {{
  max_queue_delay_microseconds: {QUEUE_DELAY_MICROSECONDS}
}}
"""
