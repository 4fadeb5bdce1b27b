"""Waiting for a FindAll run, with progress."""

from __future__ import annotations

import anyio
from mcp.types import CallToolResult

from parallel_mcp.tasks.event_cursor import event_id_in
from parallel_mcp.tasks.findall_watching import FindAllSnapshot, match_limit
from parallel_mcp.tools.call import Call
from parallel_mcp.tools.findall_status import candidate_counts, findall_elapsed_s, next_for_findall, why_ended
from parallel_mcp.tools.reply import reply
from parallel_mcp.tools.watching import (
    Watched,
    WatchProgressArguments,
    WatchProgressOutput,
    cursor_remark,
    last_look,
    shown_messages,
    watched_text,
    watched_until,
)


async def watch_findall_reply(request: WatchProgressArguments, call: Call, *, wait_s: float) -> CallToolResult:
    """Where a FindAll run stands after a wait, and the matches since the cursor.

    Raises:
        UpstreamError: The run cannot be read.
    """
    watched = await watch_findall(call, request.id, wait_s=wait_s, cursor=request.cursor)
    last, run = watched.last, watched.last.run
    structured = WatchProgressOutput(
        id=run.findall_id,
        status=run.status.status,
        is_active=run.is_active,
        result_ready=last.is_complete,
        elapsed_s=findall_elapsed_s(run),
        counts=candidate_counts(run, last.match_limit),
        cursor=last.cursor,
        remark=" ".join(filter(None, [cursor_remark(last), why_ended(run)])) or None,
        next=next_for_findall(run, cursor=last.cursor, timeout_s=request.timeout_s),
        untrusted_messages=shown_messages(watched.messages),
    )
    return reply(watched_text(structured, watched.brought), structured)


async def watch_findall(call: Call, findall_id: str, *, wait_s: float, cursor: str = "") -> Watched[FindAllSnapshot]:
    """Watch a FindAll run until it is no longer active or the time is up, reporting progress to the client.

    Raises:
        UpstreamError: The run cannot be read.
    """
    deadline = anyio.current_time() + wait_s
    watched = await watched_until(call, call.watching_findall(findall_id, cursor), deadline, "starting")
    if watched is None:
        with last_look(deadline):
            known = cursor if event_id_in(cursor, findall_id) else ""
            run = await call.api.findall.retrieve(findall_id)
            limit = await match_limit(call.api.findall, findall_id)
            watched = Watched(
                FindAllSnapshot(run=run, match_limit=limit, new_messages=(), cursor=known, cursor_fits=known == cursor)
            )
    await call.note_findall(watched.last.run)
    return watched
