"""The requirements of an image, one a line, from pyproject.toml: python docker/requirements.py --cuda 13 --extra s3 --without torch

Standard library only, Python 3.11 or newer: it runs before anything is installed.
"""

import argparse
import re
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

import tomllib

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
DALI = "nvidia-dali-cuda"
DALI_OF_CUDA = {"12": f"{DALI}120", "13": f"{DALI}130"}
"""DALI's packages are named after the CUDA version they were built with, and run with its later minor versions."""


def requirements(pyproject: Path, cuda: str, extras: Sequence[str] = (), without: Collection[str] = ()) -> list[str]:
    """As pip takes them, sorted, each once.

    Args:
        cuda: version whose DALI is taken, as 13 or 13.4.1; DALI's CPU backend is the same in all.
        extras: of [project.optional-dependencies].
        without: packages that the base image has.

    Raises:
        SystemExit: DALI is not made for this CUDA, or pyproject.toml has no such extra or package.
    """
    project = tomllib.loads(pyproject.read_text())["project"]
    dali = DALI_OF_CUDA.get(cuda.partition(".")[0])
    if dali is None:
        raise SystemExit(f"CUDA version {cuda!r}: expected one of {', '.join(DALI_OF_CUDA)}, as in --cuda 13")
    optional = project["optional-dependencies"]
    unknown = [extra for extra in extras if extra not in optional]
    if unknown:
        raise SystemExit(f"{pyproject}: has no extra {', '.join(unknown)}; found {', '.join(optional)}")
    lines = {*project["dependencies"], *(line for extra in extras for line in optional[extra])}
    names = {name_of(line) for line in lines}
    absent = [name for name in without if name not in names]
    if absent:
        raise SystemExit(f"{pyproject}: requires no {', '.join(absent)}; --without would have no effect")
    kept = [line for line in lines if name_of(line) not in without]
    return sorted(re.sub(rf"^{DALI}\d+", dali, line) for line in kept)


def name_of(requirement: str) -> str:
    """The package of a line of pyproject.toml."""
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower()


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuda", required=True, help="version whose DALI is taken, as 13 or 13.4.1")
    parser.add_argument("--extra", action="append", default=[], help="repeatable")
    parser.add_argument("--without", action="append", default=[], help="a package the base image has; repeatable")
    given = parser.parse_args(arguments)
    print("\n".join(requirements(PYPROJECT, given.cuda, given.extra, given.without)))


if __name__ == "__main__":
    main(sys.argv[1:])
