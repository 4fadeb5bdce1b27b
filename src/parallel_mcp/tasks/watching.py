"""Watching a run: a stream of snapshots, from its present state to its end."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from parallel_mcp.api.models import TaskRun
from parallel_mcp.tasks.feed import RunFeed
from parallel_mcp.tasks.feeds import Feeds
from parallel_mcp.tasks.trace import START, Cursor, Message, read_cursor

if TYPE_CHECKING:
    from parallel_mcp.api.client import ParallelApi


@dataclass(frozen=True)
class Snapshot:
    """Where a run stands, and what its watcher has not been given yet."""

    run: TaskRun
    meter: float | None
    sources_read: int | None
    sources_considered: int | None
    new_messages: tuple[Message, ...]
    cursor: str
    cursor_fits: bool


@asynccontextmanager
async def watching(
    feeds: Feeds, api: ParallelApi, owner: str, run_id: str, cursor: str = ""
) -> AsyncGenerator[AsyncGenerator[Snapshot]]:
    """Watch a run; leaving the block ends the watch and never touches the run.

    The first snapshot is the present state. The last one is of a run that is no longer active: ended, or stopped in
    `action_required`. Messages told by a `cursor` of an earlier watch are not given again; a cursor that does not fit
    counts as none. In between the stream is connected again as often as it takes, and the status polled if it fails.

    Iterating raises `UpstreamError` when the run cannot be read at all.
    """
    given = read_cursor(cursor) if cursor else START
    if given is None:
        cursor = ""
    async with (
        feeds.feed_of(api, owner, run_id) as feed,
        aclosing(_snapshots(feed, given or START, cursor, fits=given is not None)) as snapshots,
    ):
        yield snapshots


async def _snapshots(feed: RunFeed, start: Cursor, cursor: str, *, fits: bool) -> AsyncGenerator[Snapshot]:
    position: int | None = None
    while True:
        changed, ended = feed.changed, feed.ended
        if feed.failure is not None:
            raise feed.failure
        new: tuple[Message, ...] = ()
        if position is None:
            position = feed.trace.position_of(start)
            if position is None and ended and len(feed.trace):
                position = 0  # the replay is over and shorter than what the cursor speaks of: another run's cursor
            fits = fits and not (start.position and position == 0)
        if position is not None:
            new = feed.trace.since(position)
            position += len(new)
            cursor = feed.trace.cursor(position)
        if feed.run is not None:
            yield Snapshot(
                run=feed.run,
                meter=feed.meter,
                sources_read=feed.sources_read,
                sources_considered=feed.sources_considered,
                new_messages=new,
                cursor=cursor,
                cursor_fits=fits,
            )
        if ended:
            return
        await changed.wait()
