"""Measures how many images a second come from shards on S3, by the latency of the storage.

    uv run --extra s3 python -m benchmarks.shards
    uv run --extra s3 python -m benchmarks.shards --latencies 100 --connections 16 32 64 --blocks 1 8 16
    uv run --extra s3 python -m benchmarks.shards --code OTHER_CHECKOUT --defaults

The storage is a server on this machine that waits before each answer. The reader is a process of its own; it decodes nothing.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.environment import environment
from benchmarks.report import Table
from benchmarks.shards.storage import Storage, serving

_ROOT = Path(__file__).parents[2]
_COLUMNS = (
    "order",
    "latency ms",
    "connections",
    "images/s",
    "images a request",
    "bytes read / used",
    "CPU ms an image",
)


def main() -> None:
    arguments = _parse_arguments()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        _reader(arguments.code, 0, "write", str(root / "bucket/train"), str(arguments.images), str(arguments.words))
        with serving(root) as storage:
            rows = [
                _measured(storage, arguments.code, latency, *case)
                for latency in arguments.latencies
                for case in _cases(arguments)
            ]
    document = {"machine": environment(torch.device("cpu"), "benchmarks.shards"), "rows": rows}
    table = Table(
        f"{arguments.images} images from shards", _COLUMNS, [_cells(row) for row in rows], [_index_note(rows)]
    )
    table.print(Console())
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    if arguments.markdown:
        arguments.markdown.write_text("\n".join(table.markdown()))


def _cases(arguments: argparse.Namespace) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yields the order of a plan and the settings of its reader."""
    if arguments.defaults:
        yield from (("training", ()), ("validation", ()))
        return
    for connections in arguments.connections:
        yield from (("training", (connections, block)) for block in arguments.blocks)
        yield "validation", (connections,)


def _measured(storage: Storage, code: Path, latency: int, order: str, settings: tuple[int, ...]) -> dict[str, Any]:
    storage.delay, storage.num_requests, storage.num_bytes = latency / 1000, 0, 0
    output = _reader(code, storage.port, "read", "s3://bucket/train", order, *map(str, settings))
    row = json.loads(output.splitlines()[-1])
    row |= {"latency_ms": latency, "order": order, "settings": settings}
    index_bytes = sum(path.stat().st_size for path in (storage.root / "bucket/train").glob("index.*"))
    row |= {"requests": storage.num_requests, "bytes_read": storage.num_bytes - index_bytes}
    print(json.dumps(row), file=sys.stderr)
    return row


def _reader(code: Path, port: int, *arguments: str) -> str:
    variables = os.environ | {
        "PYTHONPATH": str(code),
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    command = [sys.executable, str(_ROOT / "benchmarks/shards/one_reader.py"), *arguments]
    return subprocess.run(command, env=variables, cwd=code, check=True, stdout=subprocess.PIPE, text=True).stdout


def _cells(row: dict[str, Any]) -> list[str]:
    connections, block = (*row["settings"], None, None)[:2]
    order = f"{row['order']}, blocks of {block}" if block and block > 1 else row["order"]
    return [
        order,
        str(row["latency_ms"]),
        str(connections or "default"),
        f"{row['images'] / row['seconds']:,.0f}",
        f"{row['images'] / row['requests']:.1f}",
        f"{row['bytes_read'] / row['bytes']:.2f}",
        f"{row['cpu_seconds'] / row['images'] * 1000:.2f}",
    ]


def _index_note(rows: list[dict[str, Any]]) -> str:
    words = rows[0]["words"]
    seconds, growth = min(row["index_seconds"] for row in rows), min(row["index_bytes"] for row in rows)
    return (
        f"The index of {words:,} words takes {seconds:.2f} s to read and {growth / words:,.0f} bytes of memory a word."
    )


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shards", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=2048, help="number of images")
    parser.add_argument("--words", type=int, default=25, help="words an image")
    parser.add_argument("--latencies", type=int, nargs="+", default=[0, 20, 100], help="milliseconds before an answer")
    parser.add_argument("--connections", type=int, nargs="+", default=[32], help="dataloader.shard_connections")
    parser.add_argument("--blocks", type=int, nargs="+", default=[1, 16], help="dataloader.shuffle_block")
    parser.add_argument("--defaults", action="store_true", help="pass no setting, as to older code, which has none")
    parser.add_argument("--code", type=Path, default=_ROOT, help="checkout whose code is measured")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    parser.add_argument("--markdown", type=Path, help="file for the table")
    return parser.parse_args()


if __name__ == "__main__":
    main()
