"""The matches of a FindAll run as a table, in pages that lose nothing."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import anyio
from mcp.types import CallToolResult

from parallel_mcp.api.findall_models import Candidate, FindAllResult, FindAllRun
from parallel_mcp.errors import InvalidArguments, RunFailed
from parallel_mcp.render.candidates import CandidateTable
from parallel_mcp.render.pages import Page, page_of
from parallel_mcp.render.untrusted import marked, one_line
from parallel_mcp.tasks.handles import platform_link
from parallel_mcp.tools.call import Call
from parallel_mcp.tools.findall_status import next_for_findall, why_ended
from parallel_mcp.tools.findall_watching import watch_findall
from parallel_mcp.tools.reply import next_call, reply
from parallel_mcp.tools.results import (
    CitedSource,
    GetResultArguments,
    GetResultOutput,
    PageInfo,
    ResultAnswer,
    ResultContent,
)
from parallel_mcp.tools.watching import LAST_LOOK_S

MAX_CITATIONS = 50
MAX_EXCERPTS = 3
MAX_EXCERPT_CHARS = 300
MAX_DOUBTS = 20
MAX_EXACT_CHARS = 25_000
_PLAIN_NAME = re.compile(r"[\w-]{1,64}")


async def findall_reply(request: GetResultArguments, call: Call, *, wait_s: float) -> CallToolResult:
    """The page of the matches that is asked for, once the run has ended or the wait is over.

    Raises:
        RunFailed: The run failed and found nothing.
        InvalidArguments: The arguments do not fit the result.
        UpstreamError: The run cannot be read.
    """
    answer = await (_answer_within(wait_s, request, call) if wait_s else _answer(request, call))
    return reply(answer.text, answer.structured)


async def _answer_within(wait_s: float, request: GetResultArguments, call: Call) -> ResultAnswer:
    deadline = anyio.current_time() + wait_s
    watched = await watch_findall(call, request.id, wait_s=wait_s, cursor="")
    with anyio.CancelScope(deadline=deadline + LAST_LOOK_S):
        return await _answer(request, call)
    return _not_read(watched.last.run)


async def _answer(request: GetResultArguments, call: Call) -> ResultAnswer:
    result = await call.api.findall.result(request.id)
    await call.note_findall(result.run)
    matches = [candidate for candidate in result.candidates if candidate.match_status == "matched"]
    if result.run.status.status == "failed" and not matches:
        raise RunFailed(f"The FindAll run {request.id} failed and found no match. {why_ended(result.run)}".rstrip())
    return _Matches(request, result, _table(request, matches)).answer()


def _table(request: GetResultArguments, matches: list[Candidate]) -> CandidateTable:
    table = CandidateTable(matches, request.fields)
    unknown = [name for name in request.fields if name not in table.fields]
    if unknown and matches:
        names = ", ".join(f"`{one_line(name, 60)}`" for name in table.fields[:50])
        raise InvalidArguments(
            "`fields` names conditions or enrichments that no match has; there are those below.", quote=names
        )
    return table


@dataclass(frozen=True)
class _Matches:
    """One page of the matches, in both halves."""

    request: GetResultArguments
    result: FindAllResult
    table: CandidateTable

    def answer(self) -> ResultAnswer:
        request, run = self.request, self.result.run
        page = page_of(self.table.document(request.format, request.citations), request.max_chars, request.cursor)
        if page is None:
            raise InvalidArguments(
                "`cursor` does not belong to these matches with these arguments, or there are more matches by now. "
                "Repeat the arguments of the call that gave it, or leave it out to begin with the first page."
            )
        structured = GetResultOutput(
            id=run.findall_id,
            status=run.status.status,
            is_final=run.is_final,
            processor=run.generator,
            page=PageInfo(start=page.start, end=page.end, total=page.total),
            cursor=page.next_cursor or None,
            link=platform_link(run.findall_id),
            next=self._next(page),
            untrusted=self._content(page) if self.table.candidates else None,
        )
        return ResultAnswer(self._text(structured, page), structured)

    def _next(self, page: Page) -> str | None:
        if page.next_cursor and all(_PLAIN_NAME.fullmatch(name) for name in self.request.fields):
            given = self.request.model_dump(exclude_defaults=True, exclude={"id", "cursor", "wait_s"})
            return next_call("get_result", id=self.request.id, **given, cursor=page.next_cursor)
        if page.next_cursor:  # names of fields are somebody else's words, not to be repeated among ours
            return f'get_result with the same arguments and cursor="{page.next_cursor}"'
        return next_for_findall(self.result.run) if self.result.run.is_active else None

    def _content(self, page: Page) -> ResultContent:
        exact = page.is_whole and len(json.dumps(self.table.records, ensure_ascii=False)) <= MAX_EXACT_CHARS
        return ResultContent(
            content=None if exact else self._shown(page),
            output=list(self.table.records) if exact else None,
            citations=self._citations() or None,
            check_these=self._doubts() or None if page.is_first else None,
        )

    def _citations(self) -> list[CitedSource]:
        if self.request.citations == "none":
            return []
        full = self.request.citations == "full"
        return [
            CitedSource(
                number=source.number,
                url=source.url[:2_000],
                title=source.title[:300] or None,
                excerpts=[text[:MAX_EXCERPT_CHARS] for text in source.excerpts[:MAX_EXCERPTS]] if full else None,
            )
            for source in self.table.sources[:MAX_CITATIONS]
        ]

    def _doubts(self) -> list[str]:
        doubts = self.table.doubts() if self.request.citations != "none" else []
        more = len(doubts) - MAX_DOUBTS
        return [*doubts[:MAX_DOUBTS], *([f"and {more} more"] if more > 0 else [])]

    def _shown(self, page: Page) -> str:
        """The page; a later one of a table is told which columns these are."""
        heading = "" if page.is_first or self.request.format == "json" else f"Columns: {self.table.heading}\n"
        return heading + page.text

    def _text(self, structured: GetResultOutput, page: Page) -> str:
        run = self.result.run
        part = "" if page.is_whole else f", characters {page.start:,} to {page.end:,} of {page.total:,}"
        found = f"{len(self.table.candidates):,} matches among {run.generated:,} candidates"
        lines = [f"{structured.id} ({structured.processor}, {structured.status}): {found}{part}."]
        lines += [self._state()] if self._state() else []
        if structured.untrusted is not None:
            if structured.untrusted.check_these:
                lines.append(f"Check these: {marked('; '.join(structured.untrusted.check_these))}")
            lines.append(marked(self._shown(page)))
        if structured.next:
            lines.append(f"Next: {structured.next}")
        return "\n".join(lines)

    def _state(self) -> str:
        if self.result.run.is_active:
            return "It still searches or enriches: more may come."
        return why_ended(self.result.run)


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
