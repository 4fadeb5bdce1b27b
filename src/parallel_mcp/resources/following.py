"""When a resource changes. Each change says how long after the one before it it may wait, in seconds."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING

from parallel_mcp.errors import ResearchError, UpstreamUnavailable
from parallel_mcp.tasks.handles import checked_handle, run_handle

if TYPE_CHECKING:
    from parallel_mcp.tasks.watching import Snapshot
    from parallel_mcp.tools.call import Call

AT_ONCE_S = 0.0
PROGRESS_EVERY_S = 3.0
LIST_EVERY_S = 1.0

Changes = AsyncGenerator[float]


@asynccontextmanager
async def following_run(call: Call, run_id: str) -> AsyncGenerator[Changes]:
    """The changes of a run's status and progress, up to and with the one that it is no longer active.

    If that has happened before, it is the only one: a client that has read the run just before must not wait for ever.

    Raises:
        ResearchError: On entering: the run cannot be read, or that is no run.
    """
    async with call.watching_run(run_handle(run_id, "run_id"), "", awaits_start=True) as snapshots:
        yield _changes(await _present(snapshots), snapshots)


@asynccontextmanager
async def following_result(call: Call, run_id: str) -> AsyncGenerator[Changes]:
    """The one change of a run's result: that the run is no longer active. Otherwise as `following_run`."""
    async with call.watching_run(run_handle(run_id, "run_id"), "") as snapshots:
        yield _last_change(await _present(snapshots), snapshots)


@asynccontextmanager
async def following_group(call: Call, group_id: str) -> AsyncGenerator[Changes]:
    """The rows of a group that end, up to and with the last one. Otherwise as `following_run`."""
    async with call.watching_group(checked_handle(group_id, "group", "group_id"), "") as snapshots:
        yield _changes(await _present(snapshots), snapshots)


@asynccontextmanager
async def following_list(call: Call) -> AsyncGenerator[Changes]:
    """What this process creates for the caller, and the changes of state that its watches see; without end.

    Raises:
        MissingKey: There is no caller.
    """
    yield _changes_of_list(call.app.changes.of(call.owner).from_now_on())


async def _present(snapshots: AsyncGenerator[Snapshot]) -> Snapshot:
    async for snapshot in snapshots:
        return snapshot
    raise UpstreamUnavailable("The watch has ended before it knew anything")


async def _changes(known: Snapshot, later: AsyncGenerator[Snapshot]) -> Changes:
    try:
        while known.is_active:
            before, known = known, await anext(later)
            if known.is_active:
                yield PROGRESS_EVERY_S if known.state == before.state else AT_ONCE_S
    except (ResearchError, StopAsyncIteration):
        pass  # it cannot be followed any more: whoever reads it is told why
    yield AT_ONCE_S


async def _last_change(known: Snapshot, later: AsyncGenerator[Snapshot]) -> Changes:
    async with aclosing(_changes(known, later)) as changes:
        async for _ in changes:
            pass
    yield AT_ONCE_S


async def _changes_of_list(told: AsyncGenerator[None]) -> Changes:
    async for _ in told:
        yield LIST_EVERY_S
