"""The event stream of one run: its state, its past, what happens, its end (API reference, section 11.3)."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import anyio

from parallel_mcp.simulator.clock import Clock
from parallel_mcp.simulator.payloads import JsonObject
from parallel_mcp.simulator.runs import Run
from parallel_mcp.simulator.sse import PING, Item

LIFETIME_S = 570.0
PING_EVERY_S = 10.0


async def run_events(run: Run, clock: Clock, *, breaks: bool, elements: bool) -> AsyncGenerator[Item]:
    """Give the events of one connection, as they occur.

    Ends after the final state, or without it when the connection has lived for 570 seconds (checklist 21).
    """
    opened = clock.now()
    closes_at = clock.after(LIFETIME_S)
    yield state_event(run, opened)
    for event in _past(run, opened):
        yield event
    if breaks and run.story.silence:
        await anyio.sleep(clock.real_seconds(run.story.silence))
    async for item in _to_come(run, clock, opened, closes_at):
        yield item
    if not run.is_active_at(clock.now()):
        yield final_event(run, elements=elements)


def state_event(run: Run, moment: float) -> JsonObject:
    """Write a `task_run.state` of a single-run stream (checklist 20)."""
    return {
        "type": "task_run.state",
        "event_id": None,
        "input": None,
        "run": run.as_object(moment),
        "output": None,
    }


def final_event(run: Run, *, elements: bool) -> JsonObject:
    """Write the last state of a run, with its output if it completed."""
    is_completed = run.schedule.ending == "completed"
    output = run.output.shown(elements=elements) if is_completed else None
    return state_event(run, run.schedule.ended_at) | {"output": output}


def _past(run: Run, opened: float) -> list[JsonObject]:
    """Replay all messages with their original timestamps, then the newest stats (checklist 18 and 19)."""
    until = min(opened, run.schedule.ended_at)
    entries = [entry for entry in run.trace if entry.at <= until]
    messages = [entry.event for entry in entries if entry.kind != "stats"]
    stats = [entry.event for entry in entries if entry.kind == "stats"]
    if run.story.no_trace_after_end and not run.is_active_at(opened):
        messages = []
    return [*messages, *stats[-1:]]


async def _to_come(run: Run, clock: Clock, opened: float, closes_at: float) -> AsyncGenerator[Item]:
    """Give what happens from now on, until the run has ended or the connection is too old."""
    entries = [entry for entry in run.trace if entry.at > opened]
    place = 0
    next_ping = clock.after(PING_EVERY_S)
    while True:
        seen, now = run.changes.version, clock.now()
        while place < len(entries) and entries[place].at <= min(now, run.schedule.ended_at):
            yield entries[place].event
            place += 1
        if now >= min(run.schedule.ended_at, closes_at):
            return
        if run.story.pings and now >= next_ping:
            yield PING
            next_ping = clock.after(PING_EVERY_S)
        happens_at = entries[place].at if place < len(entries) else closes_at
        ping_at = next_ping if run.story.pings else closes_at
        await run.changes.wait(seen, min(happens_at, ping_at, run.schedule.ended_at, closes_at))
