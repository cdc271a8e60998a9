"""Writes results: tables to a terminal, plain columns to a pipe, JSON and YAML on request.

Data goes to stdout, everything else to stderr, so that a pipe gets data only.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal, TextIO

Form = Literal["table", "wide", "json", "yaml", "jsonl"]
FORMS: tuple[Form, ...] = ("table", "wide", "json", "yaml", "jsonl")

_EMPTY_CELL = "-"


@dataclass(frozen=True)
class Column:
    """A column of a table: its title, and the key of its value in each row."""

    title: str
    key: str
    # Shown with `--format wide` only.
    wide: bool = False
    right: bool = False


@dataclass(frozen=True)
class Table:
    """Rows for people."""

    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]
    title: str = ""
    # Shown instead of an empty table, on stderr.
    empty: str = ""


@dataclass
class Output:
    """Where a command writes."""

    form: Form = "table"
    color: bool = True
    quiet: bool = False
    verbosity: int = 0
    stdout: TextIO = field(default_factory=lambda: sys.stdout)
    stderr: TextIO = field(default_factory=lambda: sys.stderr)

    @property
    def for_people(self) -> bool:
        """True if results are tables."""
        return self.form in ("table", "wide")

    @property
    def bytes(self) -> BinaryIO:
        """Stdout for raw bytes."""
        return self.stdout.buffer

    def show(self, document: Any, *tables: Table) -> None:
        """Write a result: the tables for people, the document for programs. With ``jsonl`` each
        item of a list is a line."""
        if self.for_people:
            for index, table in enumerate(tables):
                if index and self.stdout.isatty():
                    print(file=self.stdout)
                self._table(table)
        elif self.form == "json":
            print(json.dumps(document, indent=2, ensure_ascii=False), file=self.stdout)
        elif self.form == "jsonl":
            for item in document if isinstance(document, list) else [document]:
                self.json_line(item)
        else:
            self._yaml(document)
        self.stdout.flush()

    def json_line(self, item: Any) -> None:
        """Write one item as a line of JSON."""
        print(json.dumps(item, ensure_ascii=False), file=self.stdout)

    def note(self, text: str) -> None:
        """Tell something on stderr, unless quiet."""
        if not self.quiet:
            print(text, file=self.stderr, flush=True)

    def detail(self, text: str) -> None:
        """Tell something on stderr if asked for with ``-v``."""
        if self.verbosity:
            print(text, file=self.stderr, flush=True)

    @contextmanager
    def progress(self, label: str, total: int | None, unit: str = "") -> Iterator["Progress"]:
        """A progress bar on stderr if it is a terminal and the command is not quiet."""
        if self.quiet or not self.stderr.isatty():
            yield Progress(None, None)
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        console = Console(file=self.stderr, no_color=not self.color)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeRemainingColumn(),
        )
        with Bar(*columns, console=console, transient=True) as bar:
            yield Progress(bar, bar.add_task(label, total=total))

    def _table(self, table: Table) -> None:
        columns = [column for column in table.columns if self.form == "wide" or not column.wide]
        if not table.rows and table.empty:
            self.note(table.empty)
            return
        cells = [[_cell(row.get(column.key)) for column in columns] for row in table.rows]
        if self.stdout.isatty():
            self._rich_table(table, columns, cells)
            return
        if table.title:
            print(table.title, file=self.stdout)
        for line in plain_columns(columns, cells):
            print(line, file=self.stdout)

    def _rich_table(
        self, table: Table, columns: Sequence[Column], cells: Iterable[Sequence[str]]
    ) -> None:
        from rich import box
        from rich.console import Console
        from rich.table import Table as RichTable
        from rich.text import Text

        drawn = RichTable(
            title=table.title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
        )
        for column in columns:
            drawn.add_column(column.title, justify="right" if column.right else "left")
        for row in cells:
            # `Text` so that brackets in a value are not taken for markup.
            drawn.add_row(*(Text(cell) for cell in row))
        Console(file=self.stdout, no_color=not self.color, highlight=False).print(drawn)

    def _yaml(self, document: Any) -> None:
        import yaml

        yaml.safe_dump(document, self.stdout, sort_keys=False, allow_unicode=True)


class Progress:
    """A progress bar, or none."""

    def __init__(self, bar: Any, task: Any) -> None:
        self._bar = bar
        self._task = task

    def advance(self, count: int = 1) -> None:
        """Count what was done."""
        if self._bar is not None:
            self._bar.advance(self._task, count)

    def set(self, count: int) -> None:
        """Set what was done in all."""
        if self._bar is not None:
            self._bar.update(self._task, completed=count)


def plain_columns(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> list[str]:
    """Aligned columns under upper-case titles, two spaces apart."""
    lines = [[column.title.upper() for column in columns], *cells]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    out = []
    for line in lines:
        padded = (
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(line, widths, columns, strict=True)
        )
        out.append("  ".join(padded).rstrip())
    return out


def _cell(value: Any) -> str:
    if value is None or value == "" or value == []:
        return _EMPTY_CELL
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ",".join(str(item) for item in value)
    if isinstance(value, Mapping):
        return ",".join(f"{key}={item}" for key, item in value.items())
    return " ".join(str(value).split()) if isinstance(value, str) else str(value)
