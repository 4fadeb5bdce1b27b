"""The matches of a FindAll run as a table, in pages that lose nothing."""

from __future__ import annotations

from functools import cached_property

import anyio

from parallel_mcp.api.findall_models import Candidate, FindAllRun
from parallel_mcp.errors import InvalidArguments, RunFailed
from parallel_mcp.render.budget import as_many_as_fit, json_bytes
from parallel_mcp.render.candidates import CandidateTable
from parallel_mcp.render.pages import Page, Paging
from parallel_mcp.render.untrusted import marked, one_line
from parallel_mcp.tasks.handles import platform_link
from parallel_mcp.tools.call import Call
from parallel_mcp.tools.findall_status import next_for_findall, why_ended
from parallel_mcp.tools.findall_watching import watch_findall
from parallel_mcp.tools.result_pages import (
    MAX_ASIDE_BYTES,
    CitedSource,
    GetResultArguments,
    GetResultOutput,
    PageInfo,
    ResultAnswer,
    ResultContent,
    aside,
    cited,
    largest_answer,
    max_text_chars,
    next_page_call,
)
from parallel_mcp.tools.watching import LAST_LOOK_S

MAX_DOUBTS = 20
MAX_EXACT_BYTES = 40_000


async def findall_result_within(wait_s: float, request: GetResultArguments, call: Call) -> ResultAnswer:
    """The matches once the run has ended, or as they stand when the time is up.

    Raises:
        ResearchError: As `findall_result`; or the run cannot be watched.
    """
    deadline = anyio.current_time() + wait_s
    watched = await watch_findall(call, request.id, wait_s=wait_s, cursor="")
    with anyio.CancelScope(deadline=deadline + LAST_LOOK_S):
        return await findall_result(request, call)
    return _not_read(watched.last.run)


async def findall_result(request: GetResultArguments, call: Call) -> ResultAnswer:
    """The page of the matches that is asked for, with the matches there are.

    Raises:
        RunFailed: The run failed and found nothing.
        InvalidArguments: The arguments do not fit the result.
        UpstreamError: The run cannot be read.
    """
    result = await call.api.findall.result(request.id)
    await call.note_findall(result.run)
    matches = [candidate for candidate in result.candidates if candidate.match_status == "matched"]
    if result.run.status.status == "failed" and not matches:
        raise RunFailed(f"The FindAll run {request.id} failed and found no match. {why_ended(result.run)}".rstrip())
    return page_of_matches(request, result.run, matches)


def page_of_matches(request: GetResultArguments, run: FindAllRun, matches: list[Candidate]) -> ResultAnswer:
    """The page that a request asks for, as much of it as fits both halves.

    Raises:
        InvalidArguments: The arguments do not fit the matches.
    """
    paged = _PagedMatches(request, run, _table(request, matches))
    return largest_answer(paged.answer, paged.max_text_chars)


def _table(request: GetResultArguments, matches: list[Candidate]) -> CandidateTable:
    table = CandidateTable(matches, request.fields)
    unknown = [name for name in request.fields if name not in table.fields]
    if unknown and matches:
        names = ", ".join(f"`{one_line(name, 60)}`" for name in table.fields[:50])
        raise InvalidArguments(
            "`fields` names conditions or enrichments that no match has; there are those below.", quote=names
        )
    return table


class _PagedMatches:
    """The matches as a document, from which pages of any size can be made."""

    def __init__(self, request: GetResultArguments, run: FindAllRun, table: CandidateTable) -> None:
        self._request = request
        self._run = run
        self._table = table
        self._paging = Paging(table.document(request.format, request.citations))
        start = self._paging.position_of(request.cursor)
        if start is None:
            raise InvalidArguments(
                "`cursor` does not belong to these matches with these arguments, or there are more matches by now. "
                "Repeat the arguments of the call that gave it, or leave it out to begin with the first page."
            )
        self._start = start
        self.max_text_chars = max_text_chars(request)

    def answer(self, size: int) -> ResultAnswer:
        """An answer with a page of at most `size` characters."""
        run, page = self._run, self._paging.page_at(self._start, size)
        structured = GetResultOutput(
            id=run.findall_id,
            status=run.status.status,
            is_final=run.is_final,
            processor=run.generator,
            page=PageInfo(start=page.start, end=page.end, total=page.total),
            cursor=page.next_cursor or None,
            link=platform_link(run.findall_id),
            remark=self._state or None,
            next=self._next(page),
            untrusted=self._content(page) if self._table.candidates else None,
        )
        return ResultAnswer("\n".join(self._text_lines(structured, page)), structured)

    @property
    def _state(self) -> str:
        if self._run.is_active:
            return "It still searches or enriches: more may come."
        return why_ended(self._run)

    def _next(self, page: Page) -> str:
        if page.next_cursor:
            return next_page_call(self._request, page.next_cursor)
        if self._run.is_active:
            return next_for_findall(self._run)
        return f"Nothing more: this is {'all of it' if page.is_whole else 'the last page'}."

    # ---- the structured half

    def _content(self, page: Page) -> ResultContent:
        exact = page.is_whole and self._has_exact_records
        return ResultContent(
            content=None if exact else self._shown(page),
            output=list(self._table.records) if exact else None,
            citations=self._citations or None,
            check_these=self._doubts or None if page.is_first else None,
        )

    @cached_property
    def _has_exact_records(self) -> bool:
        return json_bytes(self._table.records) <= MAX_EXACT_BYTES

    @cached_property
    def _citations(self) -> list[CitedSource]:
        if self._request.citations == "none":
            return []
        return cited(self._table.sources, with_excerpts=self._request.citations == "full" and self._start == 0)

    @cached_property
    def _doubts(self) -> list[str]:
        doubts = self._table.doubts() if self._request.citations != "none" else []
        shown = as_many_as_fit(doubts[:MAX_DOUBTS], MAX_ASIDE_BYTES)
        more = len(doubts) - len(shown)
        return [*shown, *([f"and {more} more"] if more else [])]

    def _shown(self, page: Page) -> str:
        """The page; a later one of a table is told which columns these are, unless that takes too much of its room."""
        heading = f"Columns: {self._table.heading}\n"
        is_clear = page.is_first or self._request.format == "json" or len(heading) > self.max_text_chars // 4
        return page.text if is_clear else heading + page.text

    # ---- the text half

    def _text_lines(self, structured: GetResultOutput, page: Page) -> list[str]:
        part = "" if page.is_whole else f", characters {page.start:,} to {page.end:,} of {page.total:,}"
        found = f"{len(self._table.candidates):,} matches among {self._run.generated:,} candidates"
        lines = [f"{structured.id} ({structured.processor}, {structured.status}): {found}{part}."]
        lines += [structured.remark] if structured.remark else []
        if structured.untrusted is not None:
            lines += aside("Check these:", structured.untrusted.check_these or (), self.max_text_chars)
            lines.append(marked(self._shown(page)))
        return [*lines, f"Next: {structured.next}"]


def _not_read(run: FindAllRun) -> ResultAnswer:
    """How a run stands whose matches there was no time to read."""
    structured = GetResultOutput(
        id=run.findall_id,
        status=run.status.status,
        is_final=run.is_final,
        processor=run.generator,
        link=platform_link(run.findall_id),
        next=next_for_findall(run),
    )
    text = f"The matches of {run.findall_id} ({run.status.status}) could not be read in time.\nNext: {structured.next}"
    return ResultAnswer(text, structured)
