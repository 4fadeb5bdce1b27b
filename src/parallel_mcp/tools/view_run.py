"""What the research page asks again and again: where a run stands."""

from __future__ import annotations

from mcp.types import CallToolResult
from pydantic import Field

from parallel_mcp.tasks.handles import platform_link
from parallel_mcp.tools.arguments import Arguments
from parallel_mcp.tools.call import Call
from parallel_mcp.tools.waiting import allowed_wait_s
from parallel_mcp.tools.watching import WatchProgressArguments, WatchProgressOutput, watch_reply

FIRST_VIEW_S = 0.5
VIEW_S = 2.0

# A page that asks within ten seconds joins the stream that its last view left open.
_PAUSES_S = ((60, 1), (600, 3))
_LONGEST_PAUSE_S = 6


class ViewRunArguments(Arguments):
    """Arguments of `view_run`, told by `watch_progress`."""

    id: str
    cursor: str = ""


class ViewRunOutput(WatchProgressOutput):
    """Structured half of `view_run`."""

    link: str
    poll_after_s: int = Field(description="How long to pause before the next view.")


async def view_run(request: ViewRunArguments, call: Call) -> CallToolResult:
    """For this server's page; use watch_progress."""
    watch = WatchProgressArguments(id=request.id, cursor=request.cursor)
    wait_s = allowed_wait_s(VIEW_S if request.cursor else FIRST_VIEW_S, call)
    result = await watch_reply(watch, call, wait_s=wait_s)
    seen = WatchProgressOutput.model_validate(result.structured_content)
    output = ViewRunOutput(**seen.model_dump(), link=platform_link(seen.id), poll_after_s=pause_s(seen.elapsed_s))
    result.structured_content = output.model_dump(mode="json", exclude_none=True)
    return result


def pause_s(elapsed_s: int | None) -> int:
    """How long a page is told to pause: longer, the longer it has been going on."""
    return next((pause for until, pause in _PAUSES_S if (elapsed_s or 0) < until), _LONGEST_PAUSE_S)
