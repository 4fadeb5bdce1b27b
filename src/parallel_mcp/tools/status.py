"""How runs and groups stand, in a few words each."""

from __future__ import annotations

from datetime import UTC, datetime

import anyio
from mcp.types import CallToolResult
from pydantic import Field

from parallel_mcp.api.models import TaskGroup, TaskRun
from parallel_mcp.errors import PLATFORM_URL, NotFound, ResearchError
from parallel_mcp.ledger import Entry
from parallel_mcp.render.untrusted import marked, one_line
from parallel_mcp.tasks.handles import handle_kind, platform_link
from parallel_mcp.tools.arguments import Arguments
from parallel_mcp.tools.call import Call
from parallel_mcp.tools.reply import Output, next_call, reply

MAX_IDS = 20


class GetStatusArguments(Arguments):
    """Arguments of `get_status`."""

    ids: list[str] = Field(
        default=[],
        max_length=MAX_IDS,
        description="Handles (trun_*, tgrp_*).",
    )
    limit: int = Field(default=10, description="Recent ones, 1 to 20.")


class StatusLine(Output):
    """One run, group, FindAll run or monitor."""

    id: str = Field(description="Its handle; empty if its outcome is unknown.")
    kind: str
    title: str | None = Field(default=None, description="What was asked, if it is remembered.")
    status: str = Field(
        description="queued, running, action_required, completed, failed, cancelled, not_found or outcome_unknown."
    )
    is_active: bool
    processor: str | None = None
    runs: int | None = Field(default=None, description="How many runs a group has.")
    counts: dict[str, int] | None = Field(default=None, description="By status; of FindAll: candidates.")
    elapsed_s: int | None = None
    link: str | None = None
    next: str | None = Field(default=None, description="The next call for this one.")
    untrusted_error: str | None = Field(default=None, description="Why it failed, in the API's words.")


class GetStatusOutput(Output):
    """Structured half of `get_status`."""

    items: list[StatusLine]
    spent_usd_last_hour: float | None = None
    spent_usd_last_day: float | None = None


async def get_status(request: GetStatusArguments, call: Call) -> CallToolResult:
    """See at once how runs and groups stand, each with its next call. Free.

    Without ids: the newest created here, to find one whose id was lost. To wait use watch_progress.
    """
    for handle in request.ids:
        handle_kind(handle, "ids")
    if request.ids:
        return _status_reply(GetStatusOutput(items=await _lines(list(dict.fromkeys(request.ids)), call)))
    return _status_reply(await recent_status(call, max(1, min(request.limit, MAX_IDS))))


async def recent_status(call: Call, limit: int) -> GetStatusOutput:
    """How the newest runs and groups of the caller stand, and what they cost.

    Raises:
        LedgerUnavailable: Nobody knows which those are.
    """
    recent = await call.app.creator.ledger.recent(call.owner, limit)
    spent = await call.app.creator.ledger.spent(call.owner)
    return GetStatusOutput(
        items=await _recent_lines(recent, call),
        spent_usd_last_hour=round(spent.usd_last_hour, 4),
        spent_usd_last_day=round(spent.usd_last_day, 4),
    )


async def _recent_lines(entries: list[Entry], call: Call) -> list[StatusLine]:
    """What the ledger remembers, each with its present status; what may have been bought is no less worth knowing."""
    handles = [entry.handle for entry in entries if entry.handle]
    known = dict(zip(handles, await _lines(handles, call, may_all_fail=True), strict=True))
    lines = [known[entry.handle] if entry.handle else _unknown_line(entry) for entry in entries]
    return [line.model_copy(update={"title": entry.title or None}) for line, entry in zip(lines, entries, strict=True)]


def _unknown_line(entry: Entry) -> StatusLine:
    return StatusLine(
        id="",
        kind=_kind_of(entry),
        status="outcome_unknown",
        is_active=False,
        processor=entry.processor,
        elapsed_s=round(entry.age_s),
        link=platform_link(entry.group_id) if entry.group_id else PLATFORM_URL,
        next="The answer to this create was lost, or is still awaited: do not repeat it before the user has looked."
        + (f" What has arrived: {next_call('get_status', ids=[entry.group_id])}" if entry.group_id else ""),
    )


def _kind_of(entry: Entry) -> str:
    """What an entry is about; those of other things than runs and groups begin with what they are."""
    kind = entry.processor.partition(" ")[0]
    return kind if kind in ("findall", "monitor") else "run"


async def _lines(handles: list[str], call: Call, *, may_all_fail: bool = False) -> list[StatusLine]:
    """The status of each, read at the same time; of those that could not be read, why not.

    Raises:
        ResearchError: None of them could be read, and that is all there is to say.
    """
    outcomes: dict[str, StatusLine | ResearchError] = {}

    async def read(handle: str) -> None:
        try:
            outcomes[handle] = await _line(handle, call)
        except ResearchError as error:
            outcomes[handle] = error

    async with anyio.create_task_group() as reading:
        for handle in handles:
            reading.start_soon(read, handle)
    failures = [outcome for outcome in outcomes.values() if isinstance(outcome, ResearchError)]
    if failures and len(failures) == len(handles) and not may_all_fail:
        raise failures[0]
    return [_line_of(handle, outcomes[handle]) for handle in handles]


async def _line(handle: str, call: Call) -> StatusLine:
    try:
        match handle_kind(handle):
            case "run":
                run = await call.run_as_it_stands(handle)
                await call.note(run)
                return run_line(run)
            case "group":
                group = await call.api.retrieve_group(handle)
                await call.note_group(group)
                return group_line(group)
            case "findall":
                from parallel_mcp.tools.findall_status import findall_line

                return await findall_line(handle, call)
            case "monitor":
                from parallel_mcp.tools.monitor_status import monitor_line

                return await monitor_line(handle, call)
    except NotFound:
        advice = "Check the id: it must be copied exactly and belong to the same API key."
        return StatusLine(id=handle, kind=handle_kind(handle), status="not_found", is_active=False, next=advice)


def _line_of(handle: str, outcome: StatusLine | ResearchError) -> StatusLine:
    if isinstance(outcome, StatusLine):
        return outcome
    return StatusLine(id=handle, kind=handle_kind(handle), status=f"unreadable ({outcome.code})", is_active=False)


def run_line(run: TaskRun) -> StatusLine:
    """The status of a run."""
    return StatusLine(
        id=run.run_id,
        kind="run",
        status=run.status,
        is_active=run.is_active,
        processor=run.processor,
        elapsed_s=elapsed_s(run),
        link=platform_link(run.run_id),
        next=next_for(run),
        untrusted_error=run_error(run),
    )


def next_for(run: TaskRun, *, cursor: str = "", timeout_s: float | None = None) -> str:
    """The next call for a run in its present state; a wait that the caller chose is kept."""
    if run.is_active:
        return next_call("watch_progress", id=run.run_id, timeout_s=timeout_s, cursor=cursor)
    if run.status == "completed":
        return next_call("get_result", id=run.run_id)
    if run.is_final:
        return "Nothing more will come of this run; a new one costs again."
    if run.status == "not_found":
        return gone("run", "create_task")
    return f"The user must look at {platform_link(run.run_id)}: the run stopped and waits there."


def gone(kind: str, create: str) -> str:
    """What comes next where the idempotency key of a call leads to something that the API does not know any more."""
    return f"Parallel does not know this {kind} any more: {create} with another idempotency_key costs again."


def next_for_group(group: TaskGroup, *, cursor: str = "", timeout_s: float | None = None) -> str:
    """The next call for a group in its present state."""
    if group.status.is_active:
        return next_call("watch_progress", id=group.taskgroup_id, timeout_s=timeout_s, cursor=cursor)
    if not group.status.num_task_runs:
        return "The group has no runs."
    return next_call("get_result", id=group.taskgroup_id)


def run_error(run: TaskRun) -> str | None:
    """Why a run failed, in the API's words, with its reference."""
    if run.error is None:
        return None
    reference = f" (reference {one_line(run.error.ref_id, 80)})" if run.error.ref_id else ""
    return one_line(run.error.message, 500) + reference


def elapsed_s(run: TaskRun) -> int | None:
    """Seconds from the creation of a run to its end, or to now; None if the API gave no usable times."""
    return seconds_between(run.created_at, None if run.is_active else run.modified_at)


def group_elapsed_s(group: TaskGroup) -> int | None:
    """Seconds since the creation of a group."""
    return seconds_between(group.created_at, None)


def seconds_between(start: str, end: str | None) -> int | None:
    """Seconds from one time to another, or to now; None if they are no times."""
    try:
        until = datetime.now(UTC) if end is None else datetime.fromisoformat(end)
        return max(0, round((until - datetime.fromisoformat(start)).total_seconds()))
    except (ValueError, TypeError):
        return None


def group_status(group: TaskGroup) -> str:
    """One word for a group: it is active, or nothing of it is."""
    if group.status.is_active:
        return "running"
    return "completed" if group.status.num_task_runs else "empty"


def group_line(group: TaskGroup) -> StatusLine:
    """The status of a group."""
    status = group.status
    return StatusLine(
        id=group.taskgroup_id,
        kind="group",
        status=group_status(group),
        is_active=status.is_active,
        runs=status.num_task_runs,
        counts=status.task_run_status_counts,
        link=platform_link(group.taskgroup_id),
        next=next_for_group(group),
    )


def _status_reply(output: GetStatusOutput) -> CallToolResult:
    lines = [_text_line(item) for item in output.items] or ["No runs of this API key are known here."]
    if output.spent_usd_last_hour is not None:
        hour, day = output.spent_usd_last_hour, output.spent_usd_last_day or 0
        lines.append(f"Spent or reserved: ${hour:.3f} in the last hour, ${day:.3f} in the last day.")
    return reply("\n".join(lines), output)


def _text_line(item: StatusLine) -> str:
    facts = [item.status, *([item.processor] if item.processor else [])]
    if item.elapsed_s is not None:
        facts.append(f"{item.elapsed_s} s")
    facts += [f"{count} {status}" for status, count in (item.counts or {}).items()]
    error = f" Error: {marked(item.untrusted_error)}" if item.untrusted_error else ""
    follow_up = f" Next: {item.next}" if item.next else ""
    title = f" {item.title}" if item.title else ""
    return f"- {item.id or '(no id)'}: {', '.join(facts)}.{title}{error}{follow_up}"
