"""Pages of monitors and of their events, and the opaque cursors between them (API reference, section 17)."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Sequence
from itertools import islice

from parallel_mcp.simulator.errors import Invalid, Problem
from parallel_mcp.simulator.monitors import Monitor
from parallel_mcp.simulator.payloads import Json, JsonObject

Place = tuple[int, int]


def monitors_page(monitors: Sequence[Monitor], cursor: str | None, limit: int) -> JsonObject:
    """Write a page of monitors.

    Args:
        monitors: The monitors asked for, newest first.
        cursor: `next_cursor` of the page before.
        limit: How many at most.

    Raises:
        Invalid: The cursor was not given by this list.
    """
    last = _read_cursor(cursor)
    rest = [monitor for monitor in monitors if last is None or monitor.number < last[0]]
    page: JsonObject = {"monitors": [monitor.as_object() for monitor in rest[:limit]]}
    return _with_cursor(page, (rest[limit - 1].number, 0) if len(rest) > limit else None)


def events_page(monitor: Monitor, cursor: str | None, limit: int, *, with_completions: bool) -> JsonObject:
    """Write a page of events, newest first.

    Raises:
        Invalid: The cursor was not given by this list.
    """
    last = _read_cursor(cursor)
    found = list(islice(_events(monitor, last, with_completions=with_completions), limit + 1))
    page: JsonObject = {"events": [event for _, event in found[:limit]], "warnings": None}
    return _with_cursor(page, found[limit - 1][0] if len(found) > limit else None)


def group_page(monitor: Monitor, group_id: str, *, with_completions: bool) -> JsonObject:
    """Write the events of a single execution; limits and cursors do not apply to it."""
    events: list[Json] = [
        event
        for execution in monitor.executions()
        if execution.group_id(monitor.monitor_id) == group_id
        for event in monitor.events_of(execution, with_completions=with_completions)
    ]
    return {"events": events, "warnings": None}


def _events(monitor: Monitor, last: Place | None, *, with_completions: bool) -> Iterator[tuple[Place, JsonObject]]:
    """Give the events behind a place, each with its own: the execution, and how many it still has to come."""
    for execution in monitor.executions():
        if last is not None and execution.number > last[0]:
            continue
        events = monitor.events_of(execution, with_completions=with_completions)
        for left, event in zip(reversed(range(len(events))), events, strict=True):
            if last is None or (execution.number, left) < last:
                yield (execution.number, left), event


def _with_cursor(page: JsonObject, last: Place | None) -> JsonObject:
    """Name where the next page begins; the member is absent on the last one."""
    if last is None:
        return page
    text = f"after:{last[0]}:{last[1]}"
    return page | {"next_cursor": base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")}


def _read_cursor(cursor: str | None) -> Place | None:
    if not cursor:
        return None
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        text = ""
    place = re.fullmatch(r"after:([0-9]{1,15}):([0-9]{1,15})", text)
    if place is None:
        raise Invalid([Problem(("query", "cursor"), "not a cursor of this list")])
    return int(place[1]), int(place[2])
