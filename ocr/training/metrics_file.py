"""metrics.csv: whole lines only, also after a kill or on a full disk, and continued by a run that resumes in its folder."""

import csv
import io
from argparse import Namespace
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from ocr.atomic_write import explained_write, write_durably


class MetricsFile(Logger):
    """Writes metrics.csv: a line per logged step, a column per metric in the order of their names.

    Lines are appended whole. A new metric needs a new header; the file is then replaced by a new one that is complete.

    Args:
        first_step: step at which a run continues in its own folder; later lines in the file are from steps that were lost, and
            are dropped. 0: a new run, whose file replaces an earlier one.
    """

    def __init__(self, path: Path, first_step: int = 0) -> None:
        super().__init__()
        self.path = path
        self._first_step = first_step
        self._columns: list[str] | None = None
        """Header of the file; None: not opened yet."""
        self._rows: list[dict[str, Any]] = []
        """Rows that are not in the file yet."""

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Does nothing: config.yaml holds the settings."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        values = {name: value.item() if isinstance(value, Tensor) else value for name, value in metrics.items()}
        self._rows.append(values | {"step": 0 if step is None else step})

    @rank_zero_only
    def save(self) -> None:
        """Writes the logged rows to the file.

        Raises:
            StorageError: the file cannot be written; it keeps its earlier lines.
        """
        if not self._rows:
            return
        earlier = self._earlier_rows() if self._columns is None else []
        columns = sorted(set(self._columns or ()).union(*(row.keys() for row in (*earlier, *self._rows))))
        if columns == self._columns:
            self._append(_lines(self._rows, columns))
        else:
            kept = _read(self.path) if self._columns is not None else earlier
            write_durably(self.path, _lines([*kept, *self._rows], columns, header=True))
        self._columns, self._rows = columns, []

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()

    def _earlier_rows(self) -> list[dict[str, Any]]:
        if not self._first_step or not self.path.is_file():
            return []
        return [row for row in _read(self.path) if row["step"].isdigit() and int(row["step"]) < self._first_step]

    def _append(self, lines: bytes) -> None:
        with explained_write(self.path), self.path.open("ab", buffering=0) as file:
            size, written = file.tell(), 0
            try:
                while written < len(lines):  # a disk that fills up takes a part first
                    written += file.write(lines[written:])
            except OSError:
                file.truncate(size)
                raise


def _lines(rows: Iterable[Mapping[str, Any]], columns: list[str], *, header: bool = False) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _read(path: Path) -> list[dict[str, Any]]:
    """Returns the complete lines of the file."""
    text = path.read_text()
    complete = text[: text.rfind("\n") + 1]
    rows = csv.DictReader(io.StringIO(complete, newline=""))
    return [row for row in rows if row.get("step") is not None and None not in row and None not in row.values()]
