"""The event stream of a FindAll run: its log, resumable, and a heartbeat (API reference, section 16)."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import anyio

from parallel_mcp.simulator.clock import Clock
from parallel_mcp.simulator.findall import FindAll
from parallel_mcp.simulator.sse import PING, Item

HEARTBEAT_S = 10.0


async def findall_events(
    findall: FindAll, clock: Clock, seen: int, timeout_s: float | None, *, breaks: bool
) -> AsyncGenerator[Item]:
    """Give the entries of the log behind the first `seen`, then what happens, and the status every ten seconds.

    Ends when the run is no longer active, or after `timeout_s` real seconds.
    """
    closes_at = float("inf") if timeout_s is None else clock.now() + max(0.0, timeout_s)
    heartbeat_at = clock.after(HEARTBEAT_S)
    silence = findall.story.silence if breaks else 0.0
    while True:
        version, is_active = findall.changes.version, findall.is_active
        while seen < findall.log_length:
            yield findall.event(seen)
            seen += 1
        if not is_active or clock.now() >= closes_at:
            return
        if silence:
            await anyio.sleep(clock.real_seconds(silence))
            silence = 0.0
        if clock.now() >= heartbeat_at:
            if findall.story.pings:
                yield PING
            yield findall.heartbeat()
            heartbeat_at = clock.after(HEARTBEAT_S)
        await findall.changes.wait(version, min(findall.next_change(), heartbeat_at, closes_at))
