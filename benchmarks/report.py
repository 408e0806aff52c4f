"""Reports of a benchmark: the same tables and sentences for the terminal and for a Markdown file."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich import box
from rich import table as rich_table
from rich.console import Console

from ocr.atomic_write import write_atomically
from ocr.errors import InputError
from ocr.program import in_users_words


@dataclass(frozen=True)
class Table:
    """Cells of text. The first column and columns without a title are aligned left, the others right."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    """Sentences below the table."""

    def without_empty_columns(self) -> "Table":
        """Returns the first column and all others in which at least one cell has text."""
        used = [place for place in range(len(self.columns)) if place == 0 or any(row[place] for row in self.rows)]
        rows = [[row[place] for place in used] for row in self.rows]
        return replace(self, columns=[self.columns[place] for place in used], rows=rows)

    def print(self, console: Console) -> None:
        table = rich_table.Table(title=self.title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left")
        for place, column in enumerate(self.columns):
            is_text = place == 0 or not column
            table.add_column(column, justify="left" if is_text else "right", no_wrap=place == 0)
        for row in self.rows:
            table.add_row(*row)
        console.print(table)
        _print_dim(console, [f"  {note}" for note in self.notes])

    def markdown(self) -> list[str]:
        rules = [" --- " if place == 0 or not column else " ---: " for place, column in enumerate(self.columns)]
        rows = [f"| {' | '.join(row)} |" for row in self.rows]
        notes = [*(f"- {note}" for note in self.notes), ""] if self.notes else []
        return [f"## {self.title}", "", f"| {' | '.join(self.columns)} |", f"|{'|'.join(rules)}|", *rows, "", *notes]


@dataclass(frozen=True)
class Report:
    """The results of a benchmark as text and tables."""

    title: str
    facts: Sequence[str]
    """Machine, versions, command and inputs; in the file only."""
    tables: Sequence[Table]
    appendix: tuple[str, Sequence[str]]
    """Title and lines of the list after the tables."""
    legend: str
    conclusions: tuple[str, Sequence[str]]
    """Title and sentences."""
    is_interrupted: bool

    def print(self) -> None:
        """Prints to the terminal, at most 120 columns wide; the conclusions come last."""
        console = Console(width=min(Console().width, 120) if sys.stdout.isatty() else 120)
        for table in self.tables:
            table.print(console)
            console.print()
        title, lines = self.appendix
        if lines:
            _print_dim(console, [f"{title}:", *(f"  {line}" for line in lines), ""])
        _print_dim(console, [self.legend])
        if self.is_interrupted:
            console.print(INTERRUPTED, style="bold yellow")
        console.print()
        for line in self.conclusions[1]:
            style = "bold" if line.startswith("Paste") else None
            console.print(in_users_words(line), style=style, highlight=False, markup=False)

    def markdown(self) -> str:
        """Returns the report with the conclusions before the tables."""
        lines = [f"# {self.title}", "", *([INTERRUPTED, ""] if self.is_interrupted else [])]
        lines += [*(f"- {fact}" for fact in self.facts), ""]
        lines += _section(*self.conclusions)
        for table in self.tables:
            lines += table.markdown()
        return in_users_words("\n".join([*lines, *_section(*self.appendix), self.legend])) + "\n"


INTERRUPTED = "Interrupted: not all rounds were measured."


def _print_dim(console: Console, lines: Sequence[str]) -> None:
    for line in lines:
        console.print(in_users_words(line), style="dim", highlight=False, markup=False)


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return [f"## {title}", "", *(f"- {line}" for line in lines), ""] if lines else []


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Writes each text to the file of its name, whole or not at all.

    Raises:
        InputError: the folder cannot be written.
    """
    try:
        for name, text in files.items():
            write_atomically(folder / name, text.encode())
    except OSError as error:
        raise InputError(
            f"{error.filename or folder}: cannot be written: {error.strerror}; hydra.run.dir=FOLDER names another folder"
        ) from error
