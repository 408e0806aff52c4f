"""What the base image brings and must keep: PyTorch as NVIDIA built it, and what was built against it.

python docker/base_packages.py record FILE   before the installation: writes versions, places and contents
python docker/base_packages.py pins FILE     prints them as constraints for pip
python docker/base_packages.py check FILE    after it: exit code 1 and the names where anything is different

Standard library only: it runs before anything is installed.
"""

import hashlib
import json
import sys
from collections.abc import Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

NEEDED = ("torch", "torchvision", "numpy")
"""A base image without these is not one to build on."""
KEPT = (*NEEDED, "triton", "pytorch-triton", "torchaudio", "torch-tensorrt", "transformer-engine", "flash-attn", "apex")
"""Those of them that are there are recorded."""

Record = dict[str, str]
"""version, place, and the SHA-256 of all installed files."""


def record(names: Sequence[str] = KEPT, needed: Sequence[str] = NEEDED) -> dict[str, Record]:
    """What is installed of `names`.

    Raises:
        SystemExit: one of `needed` is not.
    """
    found: dict[str, Record] = {}
    for name in names:
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            if name in needed:
                raise SystemExit(
                    f"the base image has no {name}; an NGC PyTorch image is expected, as nvcr.io/nvidia/pytorch:26.09-py3"
                ) from None
            continue
        found[name] = {
            "version": installed.version,
            "place": str(Path(str(installed.locate_file(""))).resolve()),
            "sha256": digest(installed),
        }
    return found


def digest(installed: Distribution) -> str:
    """SHA-256 over the names and bytes of the files that belong to a package, compiled bytecode left out.

    Raises:
        SystemExit: the package has no list of its files, so that a change could not be seen.
    """
    files = installed.files
    if not files:
        raise SystemExit(f"{installed.metadata['Name']} {installed.version}: its metadata list no files to check")
    total = hashlib.sha256()
    for file in sorted(files, key=str):
        path = Path(str(installed.locate_file(file)))
        if path.suffix == ".pyc":
            continue
        total.update(f"{file}\0".encode())
        if path.is_file():
            with path.open("rb") as opened:
                total.update(hashlib.file_digest(opened, "sha256").digest())
    return total.hexdigest()


def pins(recorded: dict[str, Record]) -> list[str]:
    """Constraints under which pip keeps what is recorded."""
    return [f"{name}=={values['version']}" for name, values in recorded.items()]


def differences(before: dict[str, Record], after: dict[str, Record]) -> list[str]:
    """One line for each package that is no longer what it was."""
    lines = []
    for name, values in before.items():
        now = after.get(name)
        if now is None:
            lines.append(f"{name} {values['version']} is gone")
            continue
        changed = [key for key in values if now[key] != values[key]]
        lines += [f"{name}: {key} was {values[key]}, is {now[key]}" for key in changed]
    return lines + [f"{name} {after[name]['version']} is new" for name in after if name not in before]


def main(arguments: Sequence[str]) -> None:
    if len(arguments) != 2 or arguments[0] not in ("record", "pins", "check"):
        raise SystemExit(__doc__)
    action, file = arguments[0], Path(arguments[1])
    if action == "record":
        file.write_text(json.dumps(record(), indent=1))
        return
    recorded = json.loads(file.read_text())
    if action == "pins":
        print("\n".join(pins(recorded)))
        return
    lines = differences(recorded, record(needed=()))
    if lines:
        raise SystemExit(
            "the installation changed what the base image brought:\n  "
            + "\n  ".join(lines)
            + "\nwhich requirement did it: pip install --dry-run --report - with the pins of this file as constraints"
        )
    print("unchanged: " + ", ".join(f"{name} {values['version']}" for name, values in recorded.items()))


if __name__ == "__main__":
    main(sys.argv[1:])
