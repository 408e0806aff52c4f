"""What the command line says, as every step gets it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class CheckSettings:
    """Of one call of scripts/gpu_check.sh."""

    output: str
    """Folder that everything is written to."""
    cpu: bool = False
    """Do without a GPU: smaller, and each step that needs one does its counterpart on the CPU or is skipped."""
    short: bool = False
    """Few and small steps, as tests run them."""
    minutes: float = 10.0
    """For all steps but receipts."""
    only: tuple[str, ...] = ()
    """Steps to run; none: all."""
    data: str | None = None
    """Folder laid out for data=upstage; None: drawn images."""
    receipts: bool = False
    """Train on `data` for eight minutes more."""

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def read(cls, path: Path) -> "CheckSettings":
        values = json.loads(path.read_text())
        return cls(**values | {"only": tuple(values["only"])})
