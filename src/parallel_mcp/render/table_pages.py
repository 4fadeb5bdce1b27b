"""A table in pages that end with a row and lose nothing; only a row that is longer than a page is cut. Pure.

Rows come in any order and from anywhere in the table, so a page is collected from all of them while holding no more
than may fit on it. Cursors name the last row that was given, so a table that grows meanwhile loses none.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import struct
from bisect import insort
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from pydantic import JsonValue

from parallel_mcp.render.tables import (
    Cells,
    Columns,
    TableRow,
    cell_text,
    csv_line,
    json_line,
    markdown_header,
    markdown_line,
    short,
)

TableFormat = Literal["markdown", "json", "csv"]
Order = tuple[int, int]

HEADER: Order = (0, 0)  # where the header line of CSV stands: before every row
MAX_WIRE_BYTES = 76_000  # of the rows, in both halves, as they are on the wire

_CURSOR = re.compile(r"[A-Za-z0-9_-]{1,60}")
_POSITION = struct.Struct(">III")
_DIGEST_BYTES = 6


@dataclass(frozen=True)
class Position:
    """Behind the row at `order`; with an `offset`, that many characters into it."""

    order: Order
    offset: int = 0


START = Position((0, -1))


@dataclass(frozen=True)
class PlacedRow:
    """A row, where it stands, and which of its fields are to be checked."""

    order: Order
    row: TableRow
    doubts: tuple[str, ...] = ()


class Collected:
    """The rows behind a position that come first, as many as may fit; of the others only how many there are."""

    def __init__(self, start: Position, room_chars: int, fmt: TableFormat) -> None:
        self.rows: list[PlacedRow] = []
        self.before = 0
        self.total = 0
        self._start = start
        self._room_chars = room_chars
        self._is_cut = fmt == "markdown"
        self._held_chars = 0
        self._widths: dict[Order, int] = {}

    def offer(self, order: Order, placed: Callable[[], PlacedRow]) -> None:
        """Take a row if it may be on the page; it is made only then."""
        self.total += 1
        if order < self._start.order or (order == self._start.order and not self._start.offset):
            self.before += 1
            return
        if self._held_chars >= self._room_chars and order > self.rows[-1].order:
            return
        row = _with_short_cells(placed()) if self._is_cut else placed()
        insort(self.rows, row, key=lambda one: one.order)
        self._widths[order] = _width(row.row)
        self._held_chars += self._widths[order]
        while len(self.rows) > 1 and self._held_chars - self._widths[self.rows[-1].order] >= self._room_chars:
            self._held_chars -= self._widths.pop(self.rows.pop().order)


@dataclass(frozen=True)
class TablePage:
    """One page. `rows` are those that are whole on it; `part` says which piece of a single one it is instead."""

    text: str
    rows: Sequence[PlacedRow]
    records: Sequence[Cells]
    start: int
    end: int
    total: int
    next_position: Position | None
    part: str = ""


@dataclass
class _Sheet:
    """The lines of a page as they fill it, within its characters and within the bytes of both halves."""

    room_chars: int
    room_bytes: int
    lines: list[str] = field(default_factory=list[str])

    def takes(self, line: str, record: object) -> bool:
        chars, wire = len(line) + 2, _wire_bytes(line) + _wire_bytes(record)
        if chars > self.room_chars or wire > self.room_bytes:
            return False
        self.room_chars -= chars
        self.room_bytes -= wire
        self.lines.append(line)
        return True


def table_page(collected: Collected, columns: Columns, fmt: TableFormat, max_chars: int, start: Position) -> TablePage:
    """The page that begins at a position, out of the rows that were collected for it.

    Markdown has its header on each page, CSV on the first one only: joined, the pages of CSV are the file. Each page
    of JSON is a list. The pieces of a row that is longer than a page are those of its line.
    """
    header = markdown_header(columns.names) if fmt == "markdown" else ""
    sheet = _Sheet(max_chars - len(header) - 4, MAX_WIRE_BYTES - _wire_bytes(header))
    on_page: list[PlacedRow] = []
    records: list[Cells] = []
    last: Position | None = None
    for order, line, placed, record in _lines(collected, columns, fmt, start):
        offset = start.offset if order == start.order else 0
        if offset or not sheet.takes(line, line if fmt == "csv" else record):
            if not sheet.lines:
                return _piece(collected, line, order, offset, max_chars)
            break
        last = Position(order)
        if placed:
            on_page.append(placed)
            records.append(record)
    end = collected.before + len(on_page)
    return TablePage(
        text=_joined(sheet.lines, header, fmt),
        rows=on_page,
        records=records,
        start=collected.before,
        end=end,
        total=collected.total,
        next_position=last if last and end < collected.total else None,
    )


def _lines(
    collected: Collected, columns: Columns, fmt: TableFormat, start: Position
) -> Generator[tuple[Order, str, PlacedRow | None, Cells]]:
    """The lines behind a position: where each stands, itself, its row and its cells."""
    if fmt == "csv" and (start.order < HEADER or (start.order == HEADER and start.offset)):
        yield HEADER, csv_line(list[JsonValue](columns.names)), None, {}
    for placed in collected.rows:
        cells = columns.cells(placed.row)
        yield placed.order, _line(cells, fmt), placed, cells


def _piece(collected: Collected, line: str, order: Order, offset: int, max_chars: int) -> TablePage:
    """A piece of a line that does not fit on a page."""
    size = min(max_chars, len(line) - offset)
    while size > 1 and 2 * _wire_bytes(line[offset : offset + size]) > MAX_WIRE_BYTES:
        size //= 2
    end = offset + size
    is_row = order != HEADER
    is_last = end == len(line)
    whole = collected.before + (is_row and is_last)
    return TablePage(
        text=line[offset:end],
        rows=(),
        records=(),
        start=collected.before,
        end=whole,
        total=collected.total,
        next_position=None if is_last and whole == collected.total else Position(order, 0 if is_last else end),
        part=f"characters {offset:,} to {end:,} of {len(line):,} of {f'row {order[0]}' if is_row else 'the header'}",
    )


def _line(cells: Cells, fmt: TableFormat) -> str:
    match fmt:
        case "csv":
            return csv_line(cells.values())
        case "json":
            return json_line(cells)
        case "markdown":
            return markdown_line(cells.values())


def _with_short_cells(placed: PlacedRow) -> PlacedRow:
    """A row as Markdown shows it: what is cut off need not be held."""
    row = placed.row
    inputs, outputs = ({name: _cut(value) for name, value in cells.items()} for cells in (row.inputs, row.outputs))
    return replace(placed, row=replace(row, inputs=inputs, outputs=outputs, error=short(row.error)))


def _cut(value: JsonValue) -> JsonValue:
    return short(value) if isinstance(value, str | list | dict) else value


def _joined(lines: Sequence[str], header: str, fmt: TableFormat) -> str:
    match fmt:
        case "csv":
            return "".join(lines)
        case "json":
            return "[\n" + ",\n".join(lines) + "\n]"
        case "markdown":
            return "\n".join([header, *lines])


def _width(row: TableRow) -> int:
    """At least so many characters has the line of a row, whatever its columns are called."""
    values = (*row.inputs.values(), *row.outputs.values(), row.status, row.error, row.run_id)
    return sum(len(cell_text(value)) for value in values)


def _wire_bytes(value: object) -> int:
    return len(json.dumps(value, ensure_ascii=False).encode())


# ---- cursors


def table_cursor(position: Position, table: Sequence[object]) -> str:
    """A cursor to a position; `table` is what the page depends on: another table, another cursor."""
    raw = _POSITION.pack(*position.order, position.offset)
    return base64.urlsafe_b64encode(raw + _digest(table)).decode().rstrip("=")


def position_in(cursor: str) -> Position | None:
    """The position in a cursor, whichever table it is of; None if it is none."""
    raw = _raw(cursor)
    if raw is None:
        return None
    number, place, offset = _POSITION.unpack(raw[: _POSITION.size])
    return Position((number, place), offset)


def belongs_to(cursor: str, table: Sequence[object]) -> bool:
    """Whether a cursor was made for this table."""
    raw = _raw(cursor)
    return raw is not None and raw[_POSITION.size :] == _digest(table)


def _raw(cursor: str) -> bytes | None:
    if not _CURSOR.fullmatch(cursor):
        return None
    try:
        raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    except ValueError:
        return None
    return raw if len(raw) == _POSITION.size + _DIGEST_BYTES else None


def _digest(table: Sequence[object]) -> bytes:
    return hashlib.sha256(json.dumps(table).encode()).digest()[:_DIGEST_BYTES]
