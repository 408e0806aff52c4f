"""Configurations of the splits of a data set in Upstage's layout."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def split(root: Path, name: str, **values: Any) -> dict[str, Any]:
    """Returns one split of the data set at `root`, with further keys of its `config`."""
    paths = {"image_path": str(root / "images" / name), "annotation_path": str(root / "jsons" / f"{name}.json")}
    return {"config": paths | values}


def splits(root: Path, names: Sequence[str] = ("train", "val"), **values: Any) -> dict[str, Any]:
    """Returns the section `datasets`, with further keys for each split."""
    return {f"{name}_dataset": split(root, name, **values) for name in names}
