"""Watching a run or a group: a stream of snapshots, from its present state to its end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from parallel_mcp.api.models import TaskGroup, TaskRun
from parallel_mcp.tasks.event_cursor import event_id_in
from parallel_mcp.tasks.feeds import Feeds
from parallel_mcp.tasks.group_feed import GroupFeed
from parallel_mcp.tasks.rows import row_number
from parallel_mcp.tasks.run_feed import RunFeed
from parallel_mcp.tasks.trace import START, Cursor, Message, read_cursor

if TYPE_CHECKING:
    from parallel_mcp.api.client import ParallelApi


@dataclass(frozen=True)
class Snapshot(ABC):
    """Where a run or a group stands, and what its watcher has not been given yet."""

    new_messages: tuple[Message, ...]
    cursor: str
    cursor_fits: bool

    @property
    @abstractmethod
    def state(self) -> str:
        """How it stands, in one word of the API; whatever else changes is progress."""

    @property
    @abstractmethod
    def is_active(self) -> bool:
        """Whether it goes on."""

    @property
    @abstractmethod
    def phase(self) -> str:
        """How it stands, in a word or a few of our own."""

    @property
    @abstractmethod
    def percent(self) -> float | None:
        """How far it is, 0 to 100; None if nobody knows."""

    @property
    @abstractmethod
    def is_complete(self) -> bool:
        """Whether it ended with a result."""


@dataclass(frozen=True)
class RunSnapshot(Snapshot):
    """Where a run stands."""

    run: TaskRun
    latest: Message | None = None
    meter: float | None = None
    sources_read: int | None = None
    sources_considered: int | None = None

    @property
    def state(self) -> str:
        """The status of the run."""
        return self.run.status

    @property
    def is_active(self) -> bool:
        """Whether it goes on by itself."""
        return self.run.is_active

    @property
    def phase(self) -> str:
        """The status of the run."""
        return self.run.status

    @property
    def percent(self) -> float | None:
        """The API's own meter."""
        return self.meter

    @property
    def is_complete(self) -> bool:
        """Whether there is a result."""
        return self.run.status == "completed"


@dataclass(frozen=True)
class GroupSnapshot(Snapshot):
    """Where a group stands; its messages are the rows that ended."""

    group: TaskGroup

    @property
    def state(self) -> str:
        """Whether rows are active, or all have ended."""
        return "running" if self.is_active else "completed"

    @property
    def is_active(self) -> bool:
        """Whether a row is active."""
        return self.group.status.is_active

    @property
    def ended(self) -> int:
        """How many rows have ended."""
        return self.group.status.num_ended

    @property
    def phase(self) -> str:
        """How many rows have ended, of how many."""
        return f"{self.ended} of {self.group.status.num_task_runs} rows ended"

    @property
    def percent(self) -> float | None:
        """Rows that ended of all rows."""
        total = self.group.status.num_task_runs
        return 100.0 * self.ended / total if total else None

    @property
    def is_complete(self) -> bool:
        """Whether every row has ended."""
        return not self.group.status.is_active and self.group.status.num_task_runs > 0


@asynccontextmanager
async def watching_run(
    feeds: Feeds, api: ParallelApi, owner: str, run_id: str, cursor: str = "", *, awaits_start: bool = False
) -> AsyncGenerator[AsyncGenerator[RunSnapshot]]:
    """Watch a run; leaving the block ends the watch and never touches the run.

    The first snapshot is the present state. The last one is of a run that is no longer active: ended, or stopped in
    `action_required`. Messages told by a `cursor` of an earlier watch are not given again; a cursor that does not fit
    counts as none. In between the stream is connected again as often as it takes, and the status polled if it fails.

    The stream does not tell when a queued run starts: one that `awaits_start` has it looked for.

    Iterating raises `UpstreamError` when the run cannot be read at all.
    """
    given = read_cursor(cursor) if cursor else START
    if given is None:
        cursor = ""
    async with (
        feeds.of_run(api, owner, run_id) as feed,
        aclosing(_run_snapshots(feed, given or START, cursor, fits=given is not None)) as snapshots,
    ):
        with feed.awaiting_start() if awaits_start else nullcontext():
            yield snapshots


@asynccontextmanager
async def watching_group(
    feeds: Feeds, api: ParallelApi, owner: str, group_id: str, cursor: str = ""
) -> AsyncGenerator[AsyncGenerator[GroupSnapshot]]:
    """Watch a group until none of its runs is active; otherwise as `watching_run`."""
    after = event_id_in(cursor, group_id) if cursor else ""
    if after is None:
        cursor = ""
    async with (
        feeds.of_group(api, owner, group_id, after or "") as feed,
        aclosing(_group_snapshots(feed, after or "", cursor, fits=after is not None)) as snapshots,
    ):
        yield snapshots


async def _run_snapshots(feed: RunFeed, start: Cursor, cursor: str, *, fits: bool) -> AsyncGenerator[RunSnapshot]:
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
        if feed.run is not None:  # until the state is known messages wait: they are told only with it
            if position is not None:
                new = feed.trace.since(position)
                position += len(new)
                cursor = feed.trace.cursor(position)
            yield RunSnapshot(
                run=feed.run,
                latest=feed.latest,
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


async def _group_snapshots(feed: GroupFeed, after: str, cursor: str, *, fits: bool) -> AsyncGenerator[GroupSnapshot]:
    async with aclosing(feed.news(feed.group_id, after, cursor, fits=fits)) as news:
        async for one in news:
            assert feed.group is not None  # there is no news of what is not known
            messages = tuple(map(_row_message, one.told))
            yield GroupSnapshot(group=feed.group, new_messages=messages, cursor=one.cursor, cursor_fits=one.cursor_fits)


def _row_message(run: TaskRun) -> Message:
    number = row_number(run.metadata)
    name = f"row {number} ({run.run_id})" if number else run.run_id
    reason = f": {run.error.message}" if run.error else ""
    return Message(run.status, run.modified_at, f"{name} {run.status}{reason}")
