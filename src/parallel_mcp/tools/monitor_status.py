"""How a monitor stands, in a few words."""

from __future__ import annotations

from parallel_mcp.tasks.handles import platform_link
from parallel_mcp.tools.call import Call
from parallel_mcp.tools.reply import next_call
from parallel_mcp.tools.status import StatusLine, seconds_between


async def monitor_line(monitor_id: str, call: Call) -> StatusLine:
    """The status of a monitor.

    Raises:
        UpstreamError: It cannot be read.
    """
    monitor = await call.api.monitors.retrieve(monitor_id)
    return StatusLine(
        id=monitor.monitor_id,
        kind="monitor",
        status=monitor.status,
        is_active=monitor.is_active,
        processor=monitor.processor,
        elapsed_s=seconds_between(monitor.created_at, None),
        link=platform_link(monitor.monitor_id),
        next=next_call("get_monitor_events", id=monitor.monitor_id),
    )
