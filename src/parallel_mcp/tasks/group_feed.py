"""Keeps the known state of a group up to date: its counts, and which of its rows have ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from parallel_mcp.api.models import ErrorEvent, Event, GroupStatusEvent, RunStateEvent, TaskGroup, TaskRun
from parallel_mcp.errors import RequestRejected
from parallel_mcp.tasks.feed import LAST_WORDS_S, Feed

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
    before (`GET /v1/tasks/groups/{id}/events`, open for up to an hour while a run is active).
    """

    def __init__(self, api: ParallelApi, group_id: str, after: str = "") -> None:
        super().__init__()
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

    @property
    def news(self) -> int:
        """How many rows are known to have ended."""
        return len(self.rows)

    async def look(self) -> None:
        """Read the counts."""
        self._take_group(await self._api.retrieve_group(self.group_id))

    async def read_stream(self) -> None:
        """Read one connection, from where the last one ended."""
        if self.group is None:
            await self.look()  # the stream says nothing of a group's age, and little of an empty one
        try:
            await self._read_from(self._last_event_id)
        except RequestRejected:
            if not self._last_event_id:
                raise
            # The API does not know the event (any more): begin again, and leave out the rows that are known.
            self.cursor_was_refused = self.cursor_was_refused or self._last_event_id == self._after
            self._last_event_id = ""
            await self._read_from("")

    async def _read_from(self, event_id: str) -> None:
        async with self._api.group_events(self.group_id, last_event_id=event_id) as events:
            with anyio.CancelScope() as hearing:
                async for event in events:
                    self.heard()
                    self._take(event)
                    if isinstance(event, ErrorEvent):
                        await self.look_if_possible()
                    if self.is_over:
                        hearing.deadline = min(hearing.deadline, anyio.current_time() + LAST_WORDS_S)

    def _take(self, event: Event) -> None:
        match event:
            case GroupStatusEvent(status=status) if self.group is not None:
                self._take_group(self.group.model_copy(update={"status": status}))
            case RunStateEvent(run=run) if not run.is_active:
                self._take_row(EndedRow(event.event_id, run))
            case _:
                return
        self._last_event_id = event.event_id or self._last_event_id

    def _take_group(self, group: TaskGroup) -> None:
        self.group = group
        self.tell()

    def _take_row(self, row: EndedRow) -> None:
        ended = (row.run.run_id, row.run.status)
        if ended not in self._known:
            self._known.add(ended)
            self.rows.append(row)
        self._places.setdefault(row.event_id, len(self.rows))
        self.tell()
