"""Rows of a table, as a caller gives them -> the inputs of a group of runs. Pure.

CSV is read by the rules of spreadsheets: a header line, comma, semicolon or tab between the cells (whichever cuts the
header into more), quoted cells with line ends and doubled quotes in them, CR LF, CR or LF at the end of lines. Lines of
empty cells are skipped. A header that is there twice gets a number; one that is empty a name, or goes if its column is
empty. All cells are texts.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parallel_mcp.errors import InvalidArguments

MAX_ROWS = 5_000
ROW_LABEL = "row"  # the metadata of a run of a group that says which row it is
KEY_LABEL = "row_key"  # the metadata that says what its input was, however the API gives the input back
CREATE_LABEL = "mcp_op"  # the metadata of a group and of its runs that says under which entry of the ledger it was sent

_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}

RowInput = str | dict[str, Any]


@dataclass(frozen=True)
class Rows:
    """The inputs in row order, and what was changed to make them fit."""

    inputs: tuple[RowInput, ...]
    remark: str = ""


def read_rows(rows: Sequence[Mapping[str, Any]], inputs: Sequence[str], csv_text: str) -> Rows:
    """The rows that a caller gives in one of three ways.

    Raises:
        InvalidArguments: Not exactly one of them is given, a row is empty, or there are more than 5,000.
    """
    if sum(map(bool, (rows, inputs, csv_text.strip()))) != 1:
        raise InvalidArguments("Give exactly one of `rows` (objects), `inputs` (texts) and `csv` (text).")
    read = _of_csv(csv_text) if csv_text.strip() else Rows((*inputs, *map(dict, rows)))
    if len(read.inputs) > MAX_ROWS:
        raise InvalidArguments(f"{len(read.inputs):,} rows are given; a group takes at most {MAX_ROWS:,} at once.")
    for number, row in enumerate(read.inputs, 1):
        if not (row.strip() if isinstance(row, str) else row):
            raise InvalidArguments(f"Row {number} of `{'inputs' if inputs else 'rows'}` is empty.")
    return read


def row_number(metadata: Mapping[str, object]) -> int | None:
    """Which row a run is, by its label; None if it has none, or one that we did not write."""
    label = metadata.get(ROW_LABEL)
    if not isinstance(label, str) or not (label.isascii() and label.isdigit() and len(label) <= 8):
        return None
    return int(label) or None


def in_words(numbers: Iterable[int]) -> str:
    """Row numbers for a reader: `1-1000, 1003`."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)


# ---- CSV


@dataclass(frozen=True)
class _Line:
    """One record, and the number of the line on which it begins."""

    number: int
    cells: list[str]

    @property
    def holds_text(self) -> bool:
        return any(cell.strip() for cell in self.cells)


def _of_csv(text: str) -> Rows:
    if "\0" in text:
        raise InvalidArguments("`csv` holds NUL characters: its file was read in the wrong encoding, such as UTF-16.")
    text = text.removeprefix("\ufeff")
    delimiter = max(_DELIMITERS, key=lambda candidate: len(_header(text, candidate)))
    header, *lines = [line for line in _lines(text, delimiter) if line.holds_text] or [_Line(1, [])]
    if not lines:
        raise InvalidArguments(
            "`csv` has no row: it is the text itself, not the path of a file; a header line, then a line for each row."
        )
    for line in lines:
        if len(line.cells) != len(header.cells):
            raise InvalidArguments(
                f"Line {line.number} of `csv` has {len(line.cells)} cells, and the header {len(header.cells)} "
                f"(separated by {_DELIMITERS[delimiter]}). Put quotes around a cell that holds the separator."
            )
    columns = _columns(header.cells, lines)
    inputs = tuple({name: line.cells[place] for place, name in columns.items()} for line in lines)
    return Rows(inputs, _renamed(header.cells, columns))


def _header(text: str, delimiter: str) -> list[str]:
    """The cells of the first line; none if the quotes in it do not fit this delimiter."""
    try:
        return next(line.cells for line in _lines(text, delimiter) if line.holds_text)
    except (InvalidArguments, StopIteration):
        return []


def _lines(text: str, delimiter: str) -> Iterable[_Line]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    begins = 1
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise InvalidArguments(f"`csv` cannot be read where line {begins} begins: {error}.") from None
        if cells is None:
            return
        yield _Line(begins, cells)
        begins = reader.line_num + 1


def _columns(header: Sequence[str], lines: Sequence[_Line]) -> dict[int, str]:
    """The place of each column and its name, unlike all others. One without a name and without a cell is none."""
    taken = {name.strip() for name in header}
    names: dict[int, str] = {}
    for place, given in enumerate(header):
        name = given.strip()
        if not name and not any(line.cells[place].strip() for line in lines):
            continue
        wanted = name or f"column {place + 1}"
        number = 2
        name = wanted
        while name in names.values() or (name in taken and name != header[place].strip()):
            name = f"{wanted} ({number})"
            number += 1
        names[place] = name
    return names


def _renamed(header: Sequence[str], columns: Mapping[int, str]) -> str:
    """Which columns have another name than the header gives them, by their places: names are the caller's own text."""
    places = [place + 1 for place, name in columns.items() if name != header[place].strip()]
    if not places:
        return ""
    return f"The header names of column {in_words(places)} were empty or there twice, and were made unlike the others."
