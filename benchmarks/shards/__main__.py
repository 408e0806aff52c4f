"""Measures how many images a second come from shards on S3, by the latency of the storage.

    uv run --extra s3 python -m benchmarks.shards
    uv run --extra s3 python -m benchmarks.shards --latencies 100 --connections 16 32 64 --blocks 1 8 16
    uv run --extra s3 python -m benchmarks.shards --before OTHER_CHECKOUT --json FILE --markdown FILE

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
    "code",
    "order",
    "latency ms",
    "connections",
    "images/s",
    "images a request",
    "bytes read / used",
    "CPU ms an image",
)
_NUM_FEW = 16
"""Images of the shards that each reader opens first."""


def main() -> None:
    arguments = _parse_arguments()
    with tempfile.TemporaryDirectory() as temporary:
        rows = list(_rows(arguments, Path(temporary)))
    machine = environment(torch.device("cpu"), "uv run --extra s3 python -m benchmarks.shards")
    table = Table(f"{arguments.images} images from shards", _COLUMNS, [_cells(row) for row in rows], _index_notes(rows))
    table.print(Console())
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    if arguments.markdown:
        arguments.markdown.write_text("\n".join(table.markdown()) + "\n")


def _rows(arguments: argparse.Namespace, root: Path) -> Iterator[dict[str, Any]]:
    """Yields the figures of each case, of the older code first. Each code writes the shards that it reads."""
    for code, cases in ((arguments.before, _DEFAULTS), (_ROOT, _cases(arguments))):
        if code is None:
            continue
        folder = root / ("now" if code == _ROOT else "before")
        for name, num_images in (("train", arguments.images), ("few", _NUM_FEW)):
            _reader(code, 0, "write", str(folder / "bucket" / name), str(num_images), str(arguments.words))
        with serving(folder) as storage:
            for latency in arguments.latencies:
                for case in cases:
                    yield {"code": folder.name} | _measured(storage, code, latency, *case)


_Case = tuple[str, tuple[int, ...]]
"""The order of a plan, and the settings of its reader."""
_DEFAULTS: list[_Case] = [("training", ()), ("validation", ())]
"""Cases of older code, which may have no settings."""


def _cases(arguments: argparse.Namespace) -> list[_Case]:
    cases: list[_Case] = []
    for connections in arguments.connections:
        cases += [("training", (connections, block)) for block in arguments.blocks]
        cases.append(("validation", (connections,)))
    return cases


def _measured(storage: Storage, code: Path, latency: int, order: str, settings: tuple[int, ...]) -> dict[str, Any]:
    storage.delay, storage.num_requests, storage.num_bytes = latency / 1000, 0, 0
    output = _reader(code, storage.port, "read", "s3://bucket/train", "s3://bucket/few", order, *map(str, settings))
    row = json.loads(output.splitlines()[-1])
    row |= {"latency_ms": latency, "order": order, "settings": settings}
    index_bytes = sum(path.stat().st_size for path in storage.root.glob("bucket/*/index.*"))
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
        row["code"],
        order,
        str(row["latency_ms"]),
        str(connections or "default"),
        f"{row['images'] / row['seconds']:,.0f}",
        f"{row['images'] / row['requests']:.1f}",
        f"{row['bytes_read'] / row['bytes']:.2f}",
        f"{row['cpu_seconds'] / row['images'] * 1000:.2f}",
    ]


def _index_notes(rows: list[dict[str, Any]]) -> list[str]:
    """Returns what the words of the index cost; the least figure of each code."""
    notes = []
    for code in dict.fromkeys(row["code"] for row in rows):
        index = [row for row in rows if row["code"] == code]
        words = index[0]["words"]
        growth = min(row["index_bytes"] for row in index)
        notes.append(f"{code}: the index of {words:,} words takes {growth / words:,.0f} bytes of memory a word.")
    return notes


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shards", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=2048, help="number of images")
    parser.add_argument("--words", type=int, default=25, help="words an image")
    parser.add_argument("--latencies", type=int, nargs="+", default=[0, 20, 100], help="milliseconds before an answer")
    parser.add_argument("--connections", type=int, nargs="+", default=[32], help="dataloader.shard_connections")
    parser.add_argument("--blocks", type=int, nargs="+", default=[1, 16], help="dataloader.shuffle_block")
    parser.add_argument("--before", type=Path, help="checkout of older code, which is measured with its defaults too")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    parser.add_argument("--markdown", type=Path, help="file for the table")
    return parser.parse_args()


if __name__ == "__main__":
    main()
