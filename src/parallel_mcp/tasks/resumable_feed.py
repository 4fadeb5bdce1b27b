"""Feeds whose stream can be resumed: those of groups and FindAll runs, whose events have ids."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from parallel_mcp.errors import RequestRejected
from parallel_mcp.tasks.event_cursor import event_cursor
from parallel_mcp.tasks.feed import Feed, Pace

_Event = TypeVar("_Event")
_Told = TypeVar("_Told")


@dataclass(frozen=True)
class Told(Generic[_Told]):
    """Something worth telling, under the id of the event that told it."""

    event_id: str
    what: _Told


@dataclass(frozen=True)
class News(Generic[_Told]):
    """What a watcher has not been given yet, and the cursor behind it."""

    told: tuple[_Told, ...]
    cursor: str
    cursor_fits: bool


class ResumableFeed(Feed[_Event], Generic[_Event, _Told]):
    """What is known from the event `after` on ("" is the beginning): a connection begins where the last one ended."""

    says_more_after_the_end = True  # a state is not promised to come after what it counts

    def __init__(self, after: str, pace: Pace) -> None:
        super().__init__(pace)
        self.told: list[Told[_Told]] = []
        self._after = after
        self._last_event_id = after
        self._places = {after: 0}  # event id -> how many had been told with it
        self._told_again_after: set[str] = set()  # for these, more is told than came after them
        self._is_in_order = True
        self._known: set[object] = set()

    @abstractmethod
    def events_after(self, event_id: str) -> AbstractAsyncContextManager[AsyncGenerator[_Event]]:
        """Open a connection that gives what came after an event; "" is the beginning."""

    def place_after(self, event_id: str) -> int | None:
        """How many had been told with that event; None if it is not one of this feed."""
        return self._places.get(event_id)

    async def news(self, handle: str, after: str, cursor: str, *, fits: bool) -> AsyncGenerator[News[_Told]]:
        """The present state once it is known, and each change, until the end; what was told up to `after` is left out.

        Iterating raises `UpstreamError` when nothing can be read at all.
        """
        place = self.place_after(after) or 0
        while True:
            changed, ended = self.changed, self.ended
            if self.failure is not None:
                raise self.failure
            if self.is_known:
                new = self.told[place:]
                place += len(new)
                cursor = next(filter(None, (event_cursor(handle, one.event_id) for one in reversed(new))), cursor)
                told = tuple(one.what for one in new)
                yield News(told, cursor, fits and after not in self._told_again_after)
            if ended:
                return
            await changed.wait()

    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[AsyncGenerator[_Event]]:
        """Open the stream where the last connection ended."""
        if not self.is_known:
            await self.look()  # the stream leaves some of the state out
        async with AsyncExitStack() as stream:
            try:
                events = await stream.enter_async_context(self.events_after(self._last_event_id))
            except RequestRejected:
                if not self._last_event_id:
                    raise
                self._begin_again()
                events = await stream.enter_async_context(self.events_after(""))
            yield events

    def _begin_again(self) -> None:
        """The API does not know the last event (any more): hear them all, and leave out what is known.

        What came before a feed that began in the middle is not known to it: it is told now, out of order if something
        was told before, so no other watcher can go on in between.
        """
        if self._after:
            self._told_again_after |= self._places.keys()
            self._is_in_order = not self.told
        self._after = self._last_event_id = ""

    def resume_after(self, event_id: str) -> None:
        """Let the next connection begin behind this event, if it has an id."""
        self._last_event_id = event_id or self._last_event_id

    def tell_once(self, event_id: str, what: _Told, sameness: object) -> None:
        """Tell something, unless its like was told before: after a refused cursor the stream begins again."""
        if sameness not in self._known:
            self._known.add(sameness)
            self.told.append(Told(event_id, what))
            self.tell_news()
        if event_id and self._is_in_order:
            self._places.setdefault(event_id, len(self.told))
