"""A run as a task of the Tasks extension: how it stands, and when to ask again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from parallel_mcp.extensions.tasks import Task, TaskStarted
from parallel_mcp.render.untrusted import one_line
from parallel_mcp.tasks.processors import processor_named
from parallel_mcp.tools.status import elapsed_s

if TYPE_CHECKING:
    from mcp.types import CallToolResult

    from parallel_mcp.api.models import TaskRun
    from parallel_mcp.errors import UpstreamError
    from parallel_mcp.tasks.watching import RunSnapshot
    from parallel_mcp.tools.tasks import Started

SHORTEST_POLL_S = 2.0
LONGEST_POLL_S = 8.0  # the stream of a run that was looked at lingers for ten seconds
LONGEST_PAUSE_S = 60.0  # where the API says when to come back
MAX_MESSAGE_CHARS = 200


def started_task(started: Started) -> TaskStarted:
    """The answer of a tool that has started a run for a client that takes tasks."""
    remarks = f" {started.remarks}" if started.warnings else ""
    message = f"{started.headline} It cannot be cancelled.{remarks}"
    return TaskStarted(content=[], task=working(started.run, message))


def working(run: TaskRun, message: str) -> Task:
    """A task that is not at its end."""
    return Task(
        task_id=run.run_id,
        status="working",
        created_at=run.created_at,
        last_updated_at=run.modified_at,
        poll_interval_ms=round(poll_interval_s(run) * 1000),
        status_message=message,
    )


def ended(run: TaskRun, result: CallToolResult | None) -> Task:
    """A task at its end: `completed` with what the tool would have returned, `cancelled` with nothing.

    A run that failed is a completed task whose result is an error: `failed` is for errors of the protocol.
    """
    return Task(
        task_id=run.run_id,
        status="cancelled" if result is None else "completed",
        created_at=run.created_at,
        last_updated_at=run.modified_at,
        poll_interval_ms=round(SHORTEST_POLL_S * 1000),
        status_message=f"The run is {run.status}.",
        result=result,
    )


def unread(task_id: str, error: UpstreamError) -> Task:
    """A task whose run cannot be read just now: for all that is known it goes on. The times are those of the answer."""
    now = datetime.now(UTC).isoformat()
    return Task(
        task_id=task_id,
        status="working",
        created_at=now,
        last_updated_at=now,
        poll_interval_ms=round(max(LONGEST_POLL_S, min(error.retry_after_s or 0, LONGEST_PAUSE_S)) * 1000),
        status_message=f"How the run stands could not be read just now: {error}.",
    )


def progress_message(snapshot: RunSnapshot) -> str:
    """How far a run is, for a person, and the last thing it did, in the API's words."""
    run = snapshot.run
    processor = processor_named(run.processor)
    facts = [run.status]
    if snapshot.percent is not None:
        facts.append(f"{snapshot.percent:.0f} %")
    if (age_s := elapsed_s(run)) is not None:
        facts.append(f"for {age_s} s" + (f" (usually {processor.usual_duration})" if processor else ""))
    if snapshot.sources_read is not None:
        facts.append(f"{snapshot.sources_read} sources read")
    doing = f": {snapshot.latest.text}" if snapshot.latest else ""
    return one_line(", ".join(facts) + doing, MAX_MESSAGE_CHARS)


def poll_interval_s(run: TaskRun) -> float:
    """Seconds until a run is worth another look: a tenth of its age, or of the time in which such runs end at best.

    One that waits for the user may do so for hours.
    """
    if not (run.is_active or run.is_final):
        return LONGEST_POLL_S
    processor = processor_named(run.processor)
    fastest_s = processor.fastest_s if processor else 0
    return max(SHORTEST_POLL_S, min(LONGEST_POLL_S, max(fastest_s, elapsed_s(run) or 0) / 10))
