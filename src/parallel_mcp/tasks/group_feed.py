"""Keeps the known state of a group up to date: its counts, and which of its rows have ended."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from parallel_mcp.api.models import Event, GroupStatusEvent, RunStateEvent, TaskGroup, TaskGroupStatus, TaskRun
from parallel_mcp.tasks.feed import Pace
from parallel_mcp.tasks.resumable_feed import ResumableFeed

if TYPE_CHECKING:
    from parallel_mcp.api.client import ParallelApi


class GroupFeed(ResumableFeed[Event, TaskRun]):
    """What is known of a group, from the event `after` on; it tells the runs that ended.

    Source: GET /v1/tasks/groups/{taskgroup_id}/events, open for up to an hour while a run is active. It tells nothing
    of a group's age, and little of an empty one.
    """

    def __init__(self, api: ParallelApi, group_id: str, after: str, pace: Pace) -> None:
        super().__init__(after, pace)
        self.group_id = group_id
        self.group: TaskGroup | None = None
        self._api = api

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

    def events_after(self, event_id: str) -> AbstractAsyncContextManager[AsyncGenerator[Event]]:
        """The group's events."""
        return self._api.group_events(self.group_id, last_event_id=event_id)

    def take(self, event: Event) -> None:
        """Take note of counts and of runs that ended."""
        match event:
            case GroupStatusEvent(status=status):
                self._take_status(status)
            case RunStateEvent(run=run) if not run.is_active:
                self.tell_once(event.event_id, run, (run.run_id, run.status))
            case _:
                return
        self.resume_after(event.event_id)

    def tells_end(self, event: Event) -> bool | None:
        """Counts without an active run tell the end."""
        return not event.status.is_active if isinstance(event, GroupStatusEvent) else None

    def _take_status(self, status: TaskGroupStatus) -> None:
        if self.group is not None and status != self.group.status:
            self.group = self.group.model_copy(update={"status": status})
            self.tell_news()
