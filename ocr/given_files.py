"""Paths that settings name: weights, checkpoints, evaluations, data sets. Loads no library, so a command checks them at once."""

from pathlib import Path

from ocr.errors import InputError

WEIGHTS_EXTENSION = ".safetensors"
SHIPPED = Path(__file__).resolve().parent / "weights"
"""Folder of the weights that come with this package, NAME.safetensors each, and of the README.md about them. `init_from=NAME` and
`checkpoint=NAME` take the weights."""
_BESIDE = ("metrics.json", "predictions.jsonl")
"""Files of an evaluation that stand for the predictions.json in their folder."""


def weights_path(given: str | Path, key: str = "checkpoint") -> Path:
    """Returns the path of a file, or of the shipped weights of that name.

    Args:
        key: the setting that names the file, for messages.

    Raises:
        FileNotFoundError: no such file.
    """
    path = Path(given)
    shipped = SHIPPED / f"{given}{WEIGHTS_EXTENSION}"
    if not path.is_file() and str(given) == path.name and shipped.is_file():
        return shipped
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in SHIPPED.glob(f"*{WEIGHTS_EXTENSION}")))
        raise FileNotFoundError(
            f"{key}={path}: {_found(path)}; a run writes checkpoints/best.ckpt and checkpoints/last.ckpt"
            + (f"; weights that come with this package: {names}" if names else "")
        )
    return path


def resumed_path(given: str) -> Path:
    """Returns the path of the checkpoint that `resume` names.

    Raises:
        FileNotFoundError: no such file.
    """
    path = Path(given)
    if not path.is_file():
        raise FileNotFoundError(
            f"resume={given}: {_found(path)}; give resume=auto, or a checkpoint file, such as checkpoints/last.ckpt of a run folder"
        )
    return path


def refuse_missing_root(given: str) -> None:
    """Raises FileNotFoundError if the folder that `dataset_base_path` names does not exist."""
    if not Path(given).is_dir():
        found = "found a file, expected a folder" if Path(given).exists() else "no such folder"
        raise FileNotFoundError(f"dataset_base_path={given}: {found}; give the folder of the data set")


def compared_path(given: str) -> Path:
    """Returns the path of the predictions.json that `compare` names, itself or by its folder or a file beside it.

    Raises:
        InputError: no such file.
    """
    path = Path(given)
    if path.is_dir():
        path /= "predictions.json"
    elif path.name in _BESIDE:
        path = path.with_name("predictions.json")
    if not path.is_file():
        raise InputError(
            f"compare={given}: there is no {path}; give the folder of a finished evaluation, or its predictions.json"
        )
    return path


def _found(path: Path) -> str:
    return "found a folder, expected a file" if path.is_dir() else "no such file"
