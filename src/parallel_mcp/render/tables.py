"""The rows of a group -> a table: Markdown to be read, JSON and CSV to be computed with. Pure.

CSV is that of RFC 4180 (comma, quotes doubled, CR LF), in UTF-8 without a mark. A text is written as it is, also one
that a spreadsheet would take for a formula because it begins with = + - or @: a quote put before it would be read back
as part of the value by every program that computes with it. Import such columns as text.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import JsonValue

from parallel_mcp.render.untrusted import one_line

MAX_CELL_CHARS = 300
MAX_NAME_CHARS = 80

FIRST = ("row",)
LAST = ("status", "error", "run_id")

Cells = dict[str, JsonValue]


@dataclass(frozen=True)
class TableRow:
    """One row: its number, what was asked, what was found, and how it ended."""

    number: int
    inputs: Mapping[str, JsonValue]
    outputs: Mapping[str, JsonValue]
    status: str
    error: str
    run_id: str


@dataclass(frozen=True)
class Columns:
    """The columns of a table: own ones, and those of the inputs and outputs by the names they have in the table.

    A name that is there twice is told apart by `input.` or `output.` before it; the name of an input stays, unless
    it is one of our own.
    """

    inputs: Mapping[str, str] = field(default_factory=dict[str, str])
    outputs: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def names(self) -> list[str]:
        """All of them in the order of the table."""
        return [*FIRST, *self.inputs.values(), *self.outputs.values(), *LAST]

    def cells(self, row: TableRow) -> Cells:
        """The values of a row by column; what it lacks is None."""
        return {
            "row": row.number,
            **{column: row.inputs.get(name) for name, column in self.inputs.items()},
            **{column: row.outputs.get(name) for name, column in self.outputs.items()},
            "status": row.status,
            "error": row.error or None,
            "run_id": row.run_id,
        }

    def only(self, wanted: Sequence[str]) -> Columns:
        """Those that are wanted, besides our own; all if none are named."""
        if not wanted:
            return self
        return Columns(_only(self.inputs, wanted), _only(self.outputs, wanted))


def columns_of(inputs: Iterable[str], outputs: Iterable[str]) -> Columns:
    """The columns for these inputs and outputs."""
    taken = {*FIRST, *LAST}
    return Columns(_named(inputs, "input.", taken), _named(outputs, "output.", taken))


def _named(names: Iterable[str], prefix: str, taken: set[str]) -> dict[str, str]:
    columns: dict[str, str] = {}
    given = list(names)
    for name in given:
        column = name
        while column in taken or (column != name and column in given):
            column = prefix + column
        taken.add(column)
        columns[name] = column
    return columns


def _only(columns: Mapping[str, str], wanted: Sequence[str]) -> dict[str, str]:
    return {name: column for name, column in columns.items() if column in wanted}


# ---- CSV


def csv_line(cells: Iterable[JsonValue]) -> str:
    """One line of CSV, with its line end."""
    text = io.StringIO(newline="")
    csv.writer(text).writerow([cell_text(cell) for cell in cells])
    return text.getvalue()


def cell_text(value: JsonValue) -> str:
    """A value in a cell: texts as they are, nothing for null, anything else as JSON."""
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False)


# ---- JSON


def json_line(cells: Cells) -> str:
    """One row as a JSON object."""
    return json.dumps(cells, ensure_ascii=False)


# ---- Markdown


def markdown_line(cells: Iterable[JsonValue]) -> str:
    """One line of a Markdown table."""
    return f"| {' | '.join(_escaped(short(cell)) for cell in cells)} |"


def markdown_header(columns: Iterable[str]) -> str:
    """The two lines above the rows."""
    names = [_escaped(one_line(name, MAX_NAME_CHARS)) for name in columns]
    return f"| {' | '.join(names)} |\n|{'---|' * len(names)}"


def short(value: JsonValue) -> str:
    """A value on one line, cleaned and cut."""
    return one_line(cell_text(value), MAX_CELL_CHARS)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|")
