"""How runs and groups stand, as resources: what `get_status` says in its structured half, as compact JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from parallel_mcp.render.untrusted import one_line
from parallel_mcp.resources.definition import FinalText
from parallel_mcp.tasks.handles import checked_handle, run_handle
from parallel_mcp.tools.status import MAX_IDS, StatusLine, group_line, recent_status, run_line

if TYPE_CHECKING:
    from parallel_mcp.tasks.run_feed import RunFeed
    from parallel_mcp.tools.call import Call
    from parallel_mcp.tools.reply import Output

MAX_MESSAGE_CHARS = 240


class RunStatus(StatusLine):
    """One run; its progress only while it is watched in this process."""

    percent: float | None = Field(default=None, description="The API's own estimate.")
    sources_read: int | None = None
    sources_considered: int | None = None
    untrusted_message: str | None = Field(default=None, description="What was done last.")


async def run_status(call: Call, run_id: str) -> str | FinalText:
    """The status of a run, and how far it is if somebody follows it here.

    Raises:
        ResearchError: It cannot be read, or that is no run.
    """
    run = await call.run_as_it_stands(run_handle(run_id, "run_id"))
    await call.note(run)
    status = RunStatus.model_validate(run_line(run).model_dump())
    if run.is_active and (feed := call.app.feeds.known_run(call.owner, run_id)):
        status = _with_progress(status, feed)
    text = _json(status)
    return FinalText(text) if run.is_final else text


async def group_status(call: Call, group_id: str) -> str:
    """The status of a group; rows may be added to one that is complete.

    Raises:
        ResearchError: It cannot be read, or that is no group.
    """
    group = await call.api.retrieve_group(checked_handle(group_id, "group", "group_id"))
    await call.note_group(group)
    return _json(group_line(group))


async def runs_status(call: Call) -> str:
    """The newest of what the caller has created, at most twenty, and what it cost.

    Raises:
        ResearchError: There is no key, or the ledger cannot be used.
    """
    return _json(await recent_status(call, MAX_IDS))


def _with_progress(status: RunStatus, feed: RunFeed) -> RunStatus:
    return status.model_copy(
        update={
            "percent": feed.meter,
            "sources_read": feed.sources_read,
            "sources_considered": feed.sources_considered,
            "untrusted_message": one_line(feed.latest.text, MAX_MESSAGE_CHARS) if feed.latest else None,
        }
    )


def _json(status: Output) -> str:
    return status.model_dump_json(exclude_none=True)
