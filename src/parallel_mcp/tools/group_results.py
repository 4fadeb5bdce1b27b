"""The results of a group as a table: what was asked beside what was found, in row order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import anyio
from pydantic import JsonValue

from parallel_mcp.api.models import TaskGroup, TaskOutput
from parallel_mcp.errors import InvalidArguments, UpstreamUnavailable
from parallel_mcp.render.budget import as_many_as_fit, json_bytes
from parallel_mcp.render.pages import MAX_PAGE_CHARS, MIN_PAGE_CHARS
from parallel_mcp.render.sources import check_these
from parallel_mcp.render.table_pages import (
    START,
    Collected,
    PlacedRow,
    Position,
    TablePage,
    belongs_to,
    position_in,
    table_cursor,
    table_page,
)
from parallel_mcp.render.tables import Columns, TableRow, columns_of, csv_line, markdown_header
from parallel_mcp.render.untrusted import marked, one_line
from parallel_mcp.tasks.group_rows import GroupRow, rows_of_group
from parallel_mcp.tasks.handles import GROUP_TABLE, platform_link
from parallel_mcp.tools.call import Call
from parallel_mcp.tools.reply import next_call
from parallel_mcp.tools.result_pages import (
    MAX_ASIDE_BYTES,
    GetResultArguments,
    GetResultOutput,
    PageInfo,
    ResultAnswer,
    ResultContent,
    next_page_call,
)
from parallel_mcp.tools.status import group_status, next_for_group, run_error
from parallel_mcp.tools.waiting import allowed_wait_s
from parallel_mcp.tools.watching import LAST_LOOK_S, watch_group

if TYPE_CHECKING:
    from parallel_mcp.api.client import ParallelApi

MAX_TABLE_BYTES = 16 << 20
MAX_DOUBTS = 30
MAX_COLUMN_BYTES = 6_000
MAX_NAME_CHARS = 80
TEXT_COLUMN = "result"
INPUT_COLUMN = "input"


async def group_result_within(wait_s: float, request: GetResultArguments, call: Call) -> ResultAnswer:
    """The table once no row is active, or as it stands when the time is up.

    Raises:
        ResearchError: As `group_result`; or the group cannot be watched.
    """
    deadline = anyio.current_time() + wait_s
    watched = await watch_group(call, request.id, wait_s=wait_s)
    with anyio.CancelScope(deadline=deadline + LAST_LOOK_S):
        return await group_result(request, call)
    return _without_table(watched.last.group)


async def group_result(request: GetResultArguments, call: Call) -> ResultAnswer:
    """The page of the table that is asked for, with the rows as they stand.

    The whole list is read for each page, because the API gives it in no other way; only the rows of the page are held.

    Raises:
        NotFound: There is no such group.
        InvalidArguments: The arguments do not fit the table.
        UpstreamError: The group could not be read, or not in time.
    """
    start = _start(request)
    with anyio.move_on_after(allowed_wait_s(None, call)):
        group = await call.api.retrieve_group(request.id)
        await call.note_group(group)
        table = await _read_table(request, call, start)
        return _answer(request, group, table, start)
    raise UpstreamUnavailable("The rows of the group could not be read in time")


async def group_csv(api: ParallelApi, group_id: str) -> str:
    """The whole table as CSV, exact, with the rows as they stand; see `render.tables`. All of it is held in memory.

    Raises:
        InvalidArguments: It is larger than 16 MiB.
        UpstreamError: The group could not be read.
    """
    names = _Names()
    placed: list[PlacedRow] = []
    size = 0
    async with aclosing(rows_of_group(api, group_id, with_output=True)) as rows:
        async for row in rows:
            names.add(row)
            placed.append(_placed(row, ()))
            size += json_bytes([row.input, row.output.content if row.output else None])
            _check_size(group_id, size)
    columns = columns_of(names.inputs, names.outputs)
    _check_size(group_id, size + len(placed) * len(columns.names))  # the commas, where each row has fields of its own
    return await anyio.to_thread.run_sync(_csv_of, columns, placed)  # which may take seconds


def _csv_of(columns: Columns, placed: list[PlacedRow]) -> str:
    in_order = sorted(placed, key=lambda one: one.order)
    lines = (csv_line(columns.cells(one.row).values()) for one in in_order)
    return csv_line(list[JsonValue](columns.names)) + "".join(lines)


def _check_size(group_id: str, size: int) -> None:
    if size > MAX_TABLE_BYTES:
        raise InvalidArguments(
            f"The table has more than {MAX_TABLE_BYTES >> 20} MiB, which is too much for one resource. "
            f"Read it in pages: {next_call('get_result', id=group_id, format='csv')}"
        )


@dataclass
class _Names:
    """The names of all inputs and outputs, each in the order in which it was first seen."""

    inputs: dict[str, None] = field(default_factory=dict[str, None])
    outputs: dict[str, None] = field(default_factory=dict[str, None])

    def add(self, row: GroupRow) -> None:
        self.inputs.update(dict.fromkeys(_inputs(row)))
        self.outputs.update(dict.fromkeys(_outputs(row.output)))


@dataclass(frozen=True)
class _Table:
    collected: Collected
    columns: Columns


def _start(request: GetResultArguments) -> Position:
    if not request.cursor:
        return START
    position = position_in(request.cursor)
    if position is None:
        raise _foreign_cursor()
    return position


async def _read_table(request: GetResultArguments, call: Call, start: Position) -> _Table:
    collected = Collected(start, _page_chars(request), request.format)
    names = _Names()
    async with aclosing(rows_of_group(call.api, request.id, with_output=True)) as rows:
        async for row in rows:
            names.add(row)
            collected.offer(row.order, partial(_placed, row, request.fields))
    return _Table(collected, columns_of(names.inputs, names.outputs))


def _answer(request: GetResultArguments, group: TaskGroup, table: _Table, start: Position) -> ResultAnswer:
    columns = _wanted_columns(request, group, table.columns)
    # The header of CSV is on its first page alone: it must not change from page to page.
    kind = [request.id, request.format, request.fields, columns.names if request.format == "csv" else []]
    if request.cursor and not belongs_to(request.cursor, kind):
        raise _foreign_cursor()
    max_chars = _page_chars(request)
    if request.format == "markdown" and len(markdown_header(columns.names)) > max_chars // 2:
        raise InvalidArguments(
            f"A table of {len(columns.names)} columns does not fit a page: raise `max_chars`, choose json or csv, or "
            "name some columns in `fields`.",
            quote=_named(columns.names),
        )
    page = table_page(table.collected, columns, request.format, max_chars, start)
    cursor = table_cursor(page.next_position, kind) if page.next_position else ""
    structured = GetResultOutput(
        id=group.taskgroup_id,
        status=group_status(group),
        is_final=not group.status.is_active,
        counts=group.status.task_run_status_counts,
        page=PageInfo(start=page.start, end=page.end, total=page.total),
        cursor=cursor or None,
        link=platform_link(group.taskgroup_id),
        resource=GROUP_TABLE.format(group_id=group.taskgroup_id) if page.start == 0 else None,
        remark=_remark(group, page),
        next=_next(request, group, cursor),
        untrusted=_content(request, columns, page),
    )
    return ResultAnswer(_text(request, structured, page), structured)


def _content(request: GetResultArguments, columns: Columns, page: TablePage) -> ResultContent:
    as_text = bool(page.part) or request.format == "csv"
    return ResultContent(
        content=page.text if as_text else None,
        rows=None if as_text else list(page.records),
        columns=as_many_as_fit([one_line(name, MAX_NAME_CHARS) for name in columns.names], MAX_COLUMN_BYTES),
        check_these=_doubts(request, page) or None,
    )


def _doubts(request: GetResultArguments, page: TablePage) -> list[str]:
    if request.citations == "none":
        return []
    doubts = [f"row {one.order[0]}: {doubt}" for one in page.rows for doubt in one.doubts]
    shown = as_many_as_fit(doubts[:MAX_DOUBTS], MAX_ASIDE_BYTES)
    more = len(doubts) - len(shown)
    return [*shown, *([f"and {more} more on this page"] if more else [])]


def _text(request: GetResultArguments, structured: GetResultOutput, page: TablePage) -> str:
    counts = ", ".join(f"{count} {status}" for status, count in (structured.counts or {}).items())
    lines = [f"Table of {structured.id} ({structured.status}; {counts or 'no runs'}), {_extent(page)}."]
    if structured.remark:
        lines.append(structured.remark)
    content = structured.untrusted
    if content and content.check_these:
        lines.append(f"Check these: {marked('; '.join(content.check_these))}")
    lines.append(marked(page.text))
    if request.citations != "none" and page.start == 0 and page.rows:
        lines.append('Sources and full texts of a row: get_result(id=its run_id, citations="full").')
    if structured.resource:
        lines.append(f"All of it as CSV: resource {structured.resource}")
    if structured.cursor and not structured.is_final:
        lines.append(f"Next page: {next_page_call(request, structured.cursor)}")
    if structured.next:
        lines.append(f"Next: {structured.next}")
    return "\n".join(lines)


def _extent(page: TablePage) -> str:
    if page.part:
        return page.part
    if not page.rows:
        return f"none of {page.total:,} rows"
    return f"rows {page.start + 1:,} to {page.end:,} of {page.total:,}"


def _next(request: GetResultArguments, group: TaskGroup, cursor: str) -> str | None:
    if group.status.is_active:
        return next_call("watch_progress", id=group.taskgroup_id)
    if cursor:
        return next_page_call(request, cursor)
    return "Nothing more: this is the end of the table." if group.status.num_task_runs else next_for_group(group)


def _remark(group: TaskGroup, page: TablePage) -> str | None:
    remarks: list[str] = []
    if group.status.is_active:
        remarks.append("Not all rows have ended; the others are given as they stand.")
    if page.total < group.status.num_task_runs:
        lacking = group.status.num_task_runs - page.total
        remarks.append(f"{lacking} rows could not be read just now: this table is not complete.")
    return " ".join(remarks) or None


def _without_table(group: TaskGroup) -> ResultAnswer:
    """How a group stands whose rows there was no time to read."""
    structured = GetResultOutput(
        id=group.taskgroup_id,
        status=group_status(group),
        is_final=not group.status.is_active,
        counts=group.status.task_run_status_counts,
        link=platform_link(group.taskgroup_id),
        remark="There was no time left to read the rows.",
        next=next_for_group(group),
    )
    text = f"{structured.id} is {structured.status}. {structured.remark}\nNext: {structured.next}"
    return ResultAnswer(text, structured)


# ---- rows and columns


def _placed(row: GroupRow, wanted: Sequence[str]) -> PlacedRow:
    run, output = row.run, row.output
    table_row = TableRow(
        number=row.number,
        inputs=_kept(_inputs(row), "input.", wanted),
        outputs=_kept(_outputs(output), "output.", wanted),
        status=run.status,
        error=run_error(run) or "",
        run_id=run.run_id,
    )
    fields = table_row.outputs if wanted else None
    basis = (
        [entry for entry in output.basis if fields is None or entry.field.partition(".")[0] in fields] if output else []
    )
    return PlacedRow(row.order, table_row, tuple(check_these(basis)))


def _inputs(row: GroupRow) -> Mapping[str, JsonValue]:
    if row.input is None:
        return {}
    return row.input if isinstance(row.input, Mapping) else {INPUT_COLUMN: row.input}


def _outputs(output: TaskOutput | None) -> Mapping[str, JsonValue]:
    if output is None:
        return {}
    return output.content if isinstance(output.content, Mapping) else {TEXT_COLUMN: output.content}


def _kept(values: Mapping[str, JsonValue], prefix: str, wanted: Sequence[str]) -> Mapping[str, JsonValue]:
    """What may be among the wanted columns: what they are called is known only when all rows have been read."""
    if not wanted:
        return values
    return {name: value for name, value in values.items() if any(w == name or w.startswith(prefix) for w in wanted)}


def _wanted_columns(request: GetResultArguments, group: TaskGroup, columns: Columns) -> Columns:
    unknown = [name for name in request.fields if name not in columns.names]
    if unknown and not group.status.is_active:  # what rows will bring that are not there yet, nobody knows
        raise InvalidArguments(
            "`fields` names columns that the table does not have; it has those below.", quote=_named(columns.names)
        )
    return columns.only(request.fields)


def _named(names: Sequence[str]) -> str:
    return ", ".join(f"`{one_line(name, 60)}`" for name in names[:50])


def _page_chars(request: GetResultArguments) -> int:
    return max(MIN_PAGE_CHARS, min(request.max_chars, MAX_PAGE_CHARS))


def _foreign_cursor() -> InvalidArguments:
    return InvalidArguments(
        "`cursor` does not belong to this table with these arguments, or the table has got other columns. Repeat the "
        "arguments of the call that gave it, or leave it out to begin with the first page."
    )
