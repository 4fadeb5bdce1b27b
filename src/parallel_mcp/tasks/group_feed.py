"""Keeps the known state of a group up to date: its counts, and which of its rows have ended."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from parallel_mcp.api.models import Event, GroupStatusEvent, RunStateEvent, TaskGroup, TaskGroupStatus, TaskRun
from parallel_mcp.errors import RequestRejected
from parallel_mcp.tasks.feed import Feed, Pace

if TYPE_CHECKING:
    from parallel_mcp.api.client import ParallelApi


@dataclass(frozen=True)
class EndedRow:
    """A run of a group that has ended, under the id of the event that said so."""

    event_id: str
    run: TaskRun


class GroupFeed(Feed):
    """What is known of a group, from the event `after` on ("" is its beginning).

    Unlike that of a run, the stream of a group can be resumed: a connection begins after the last event of the one
    before (`GET /v1/tasks/groups/{taskgroup_id}/events`, open for up to an hour while a run is active).
    """

    says_more_after_the_end = True  # a status is not promised to come after the row that it counts

    def __init__(self, api: ParallelApi, group_id: str, after: str, pace: Pace) -> None:
        super().__init__(pace)
        self.group_id = group_id
        self.group: TaskGroup | None = None
        self.rows: list[EndedRow] = []
        self.cursor_was_refused = False
        self._api = api
        self._after = after
        self._last_event_id = after
        self._places = {after: 0}  # event id -> how many of `rows` had ended with it
        self._known: set[tuple[str, str]] = set()

    def place_after(self, event_id: str) -> int | None:
        """How many of `rows` had ended with that event; None if it is not one of this feed."""
        return self._places.get(event_id)

    @property
    def is_known(self) -> bool:
        """Whether the counts have been seen."""
        return self.group is not None

    @property
    def is_over(self) -> bool:
        """Whether no run of the group is active."""
        return self.group is not None and not self.group.status.is_active

    async def look(self) -> None:
        """Read the counts."""
        group = await self._api.retrieve_group(self.group_id)
        if self.group is None:
            self.group = group
            self.tell_news()
        else:
            self._take_status(group.status)

    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[AsyncGenerator[Event]]:
        """Open the stream where the last connection ended."""
        if self.group is None:
            await self.look()  # the stream tells nothing of a group's age, and little of an empty one
        async with AsyncExitStack() as stream:
            try:
                events = await stream.enter_async_context(self._events_after_last())
            except RequestRejected:
                if not self._last_event_id:
                    raise
                self._begin_again()
                events = await stream.enter_async_context(self._events_after_last())
            yield events

    def _events_after_last(self) -> AbstractAsyncContextManager[AsyncGenerator[Event]]:
        return self._api.group_events(self.group_id, last_event_id=self._last_event_id)

    def _begin_again(self) -> None:
        """The API does not know the last event (any more): hear them all, and leave out the rows that are known."""
        self.cursor_was_refused = self.cursor_was_refused or self._last_event_id == self._after
        self._last_event_id = ""

    def take(self, event: Event) -> None:
        """Take an event in."""
        match event:
            case GroupStatusEvent(status=status):
                self._take_status(status)
            case RunStateEvent(run=run) if not run.is_active:
                self._take_row(EndedRow(event.event_id, run))
            case _:
                return
        self._last_event_id = event.event_id or self._last_event_id

    def tells_end(self, event: Event) -> bool | None:
        """Counts without an active run tell the end."""
        return not event.status.is_active if isinstance(event, GroupStatusEvent) else None

    def _take_status(self, status: TaskGroupStatus) -> None:
        if self.group is not None and status != self.group.status:
            self.group = self.group.model_copy(update={"status": status})
            self.tell_news()

    def _take_row(self, row: EndedRow) -> None:
        ended = (row.run.run_id, row.run.status)
        if ended not in self._known:
            self._known.add(ended)
            self.rows.append(row)
            self.tell_news()
        self._places.setdefault(row.event_id, len(self.rows))
