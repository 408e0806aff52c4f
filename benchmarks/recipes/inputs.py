"""The files that recipes need: those of the command line, and those made here."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from benchmarks.recipes.pasted import write_pasted
from benchmarks.recipes.recipes import DRAWN, FEW_RECEIPTS, PASTED
from ocr.checkpoint import file_sha256
from ocr.errors import InputError
from ocr.synthetic.data_set import draw_data_set

_FILE = re.compile(r"\$(?:weights/[\w.-]+|checkpoint|start)")


@dataclass(frozen=True)
class Places:
    """Folders and files that the variables in overrides stand for."""

    data: Path
    weights: Path | None
    work: Path
    checkpoint: Path | None
    start: Path | None

    def filled(self, overrides: Sequence[str]) -> list[str]:
        """Returns the overrides with paths in place of the variables.

        Raises:
            InputError: a file or folder that they need was not given.
        """
        given = {name: str(path) for name, path in vars(self).items() if path is not None}
        try:
            return [Template(override).substitute(given) for override in overrides]
        except KeyError as error:
            raise InputError(f"--{error.args[0]} is needed for this recipe") from error

    def identities(self, overrides: Sequence[str]) -> dict[str, str]:
        """Returns what the results depend on beside the overrides: SHA-256 of files, settings of the pictures made here.

        Raises:
            InputError: a file or folder that they need was not given.
            FileNotFoundError: a file is missing.
        """
        names = sorted({name for override in overrides for name in _FILE.findall(override)})
        found = {name: file_sha256(Path(self.filled([name])[0])) for name in names}
        drawn = {name: config.model_dump_json(exclude_defaults=True) for name, config in DRAWN.items()}
        pasted = {name: config.model_dump_json() for name, config in PASTED.items()}
        made = {f"$work/{name}": settings for name, settings in (drawn | pasted).items() if _is_named(name, overrides)}
        return found | made

    def make(self, overrides: Sequence[str]) -> None:
        """Writes the files below $work that the overrides name; drawn pictures only if they do not exist yet."""
        for name, config in DRAWN.items():
            if _is_named(name, overrides):
                draw_data_set(config, self.work / name, num_workers=1)
        for name, pasted in PASTED.items():
            if _is_named(name, overrides):
                write_pasted(pasted, self.data, self.work / name)
        if any("few_receipts.json" in override for override in overrides):
            write_few(self.data / "sroie_lines/jsons/train.json", self.work / "few_receipts.json", FEW_RECEIPTS)


def write_few(annotations: Path, output: Path, number: int) -> None:
    """Writes an annotation file with the first images by name of another one, in Upstage JSON."""
    document = json.loads(annotations.read_bytes())
    first = sorted(document["images"])[:number]
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps({"images": {name: document["images"][name] for name in first}}))


def _is_named(name: str, overrides: Sequence[str]) -> bool:
    """Returns whether the overrides name a folder below $work."""
    return any(f"$work/{name}/" in override for override in overrides)
