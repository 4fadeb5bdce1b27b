"""Feeds whose stream can be resumed: those of groups and FindAll runs, whose events have ids."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Generic, TypeVar

import anyio

from parallel_mcp.api.models import ErrorEvent
from parallel_mcp.errors import RequestRejected
from parallel_mcp.tasks.feed import LAST_WORDS_S, Feed

_Event = TypeVar("_Event")
_Told = TypeVar("_Told")


@dataclass(frozen=True)
class Told(Generic[_Told]):
    """Something worth telling, under the id of the event that told it."""

    event_id: str
    what: _Told


class ResumableFeed(Feed, Generic[_Event, _Told]):
    """What is known from the event `after` on ("" is the beginning): a connection begins where the last one ended."""

    def __init__(self, after: str = "") -> None:
        super().__init__()
        self.told: list[Told[_Told]] = []
        self.cursor_was_refused = False
        self._after = after
        self._last_event_id = after
        self._places = {after: 0}  # event id -> how many had been told with it
        self._known: set[object] = set()

    @abstractmethod
    def events_after(self, event_id: str) -> AbstractAsyncContextManager[AsyncGenerator[_Event]]:
        """Open a connection that gives what came after an event; "" is the beginning."""

    @abstractmethod
    def take(self, event: _Event) -> str:
        """Take note of an event; its id, or "" if it has none or cannot be resumed from."""

    @property
    def news(self) -> int:
        """How much has been told."""
        return len(self.told)

    def place_after(self, event_id: str) -> int | None:
        """How much had been told with that event; None if it is not one of this feed."""
        return self._places.get(event_id)

    async def read_stream(self) -> None:
        """Read one connection, from where the last one ended."""
        if not self.is_known:
            await self.look()  # the stream leaves some of the state out
        try:
            await self._read_after(self._last_event_id)
        except RequestRejected:
            if not self._last_event_id:
                raise
            # The API does not know the event (any more): begin again, and leave out what is known.
            self.cursor_was_refused = self.cursor_was_refused or self._last_event_id == self._after
            self._last_event_id = ""
            await self._read_after("")

    def tell_once(self, event_id: str, what: _Told, sameness: object) -> None:
        """Tell something, unless its like was told before: after a refused cursor the stream begins again."""
        if sameness not in self._known:
            self._known.add(sameness)
            self.told.append(Told(event_id, what))
        self._places.setdefault(event_id, len(self.told))
        self.tell()

    async def _read_after(self, event_id: str) -> None:
        async with self.events_after(event_id) as events:
            with anyio.CancelScope() as hearing:
                async for event in events:
                    self.heard()
                    self._last_event_id = self.take(event) or self._last_event_id
                    if isinstance(event, ErrorEvent):
                        await self.look_if_possible()
                    if self.is_over:
                        hearing.deadline = min(hearing.deadline, anyio.current_time() + LAST_WORDS_S)
