"""The two streams of a group: the list of its runs, and its live events (API reference, sections 12.4 and 12.5)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from parallel_mcp.simulator.clock import Clock
from parallel_mcp.simulator.groups import FIRST_EVENT_ID, Group, LogEntry
from parallel_mcp.simulator.payloads import JsonObject
from parallel_mcp.simulator.runs import Run

LIFETIME_S = 3600.0


async def run_list(
    runs: Sequence[tuple[str, Run]], clock: Clock, *, status: str | None, with_input: bool, with_output: bool
) -> AsyncGenerator[JsonObject]:
    """Give every run as it is now, in the order of addition, and end (checklist 29)."""
    for event_id, run in runs:
        now = clock.now()
        if status is None or run.status_at(now) == status:
            yield _state_event(event_id, run, now, with_input=with_input, with_output=with_output)


async def group_events(
    group: Group, clock: Clock, cursor: str | None, log: Sequence[LogEntry], timeout_s: float | None
) -> AsyncGenerator[JsonObject]:
    """Give the status now, the ends of runs behind the cursor, then what happens (checklist 30).

    Ends when no run is active, after `timeout_s` real seconds, or after an hour. Earlier statuses are not repeated.
    """
    closes_at = clock.after(LIFETIME_S)
    if timeout_s is not None:
        closes_at = min(closes_at, clock.now() + max(0.0, timeout_s))
    yield _status_event(cursor or str(FIRST_EVENT_ID), group.status())
    last_id = cursor
    for entry in log:
        last_id = entry.event_id
        if entry.run is not None:
            yield _state_event(entry.event_id, entry.run, entry.at)

    while True:
        seen = group.changes.version
        group.settle()
        for entry in group.log_after(last_id):
            last_id = entry.event_id
            yield _log_event(entry)
        if not group.is_active or clock.now() >= closes_at:
            return
        await group.changes.wait(seen, min(group.next_change(), closes_at))


def _log_event(entry: LogEntry) -> JsonObject:
    if entry.run is None:
        return _status_event(entry.event_id, entry.status)
    return _state_event(entry.event_id, entry.run, entry.at)


def _status_event(event_id: str, status: JsonObject) -> JsonObject:
    return {"type": "task_group_status", "event_id": event_id, "status": status}


def _state_event(
    event_id: str, run: Run, moment: float, *, with_input: bool = False, with_output: bool = False
) -> JsonObject:
    shows_output = with_output and run.status_at(moment) == "completed"
    return {
        "type": "task_run.state",
        "event_id": event_id,
        "input": run.input_object() if with_input else None,
        "run": run.as_object(moment),
        "output": run.output.shown(elements=run.wants_element_basis) if shows_output else None,
    }
