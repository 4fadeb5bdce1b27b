"""Following what goes on upstream: by its event stream, and by its status where the stream fails."""

from __future__ import annotations

import logging
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import ClassVar, Generic, TypeVar

import anyio

from parallel_mcp.api.models import ErrorEvent
from parallel_mcp.errors import RateLimited, ResearchError, UpstreamError, UpstreamUnavailable, UpstreamUnreadable

FRUITLESS_BEFORE_POLLING = 3
POLLS_BETWEEN_CONNECTIONS = 4

_Event = TypeVar("_Event")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pace:
    """How long a feed waits for what, in seconds. What grows does so with each connection that brought no news."""

    first_event_s: float = 2.0  # the state as it is, which comes at once: without it, the status is read
    silence_s: float = 15.0  # without an event: the status is read
    silent_connection_s: float = 45.0  # without an event: the connection may be dead (grows)
    connection_s: float = 600.0  # the API ends its streams of runs after 570
    last_words_s: float = 3.0  # without an event: a stream that has told the end has no more to say
    all_last_words_s: float = 30.0  # however much more it has to say
    pause_s: float = 0.5  # before connecting again (grows)
    max_pause_s: float = 60.0
    poll_s: float = 2.0  # between looks at the status while connecting brings nothing (grows)
    max_poll_s: float = 15.0
    doubt_s: float = 2.0  # between looks at the status because of errors in the stream
    queued_s: float = 0.8  # between looks for the start of a queued run, where somebody waits for it (grows)
    tick_s: float = 0.5  # how exactly silences are measured


USUAL_PACE = Pace()


class Feed(ABC, Generic[_Event]):
    """What is known of something that goes on upstream, kept up to date.

    `changed` is replaced and set at each change, so nobody who waits is left behind; `tell_owner` is called when the
    state is another one. While `keep_current` runs,
    `attend` has to be called when `attend_at` has come: one timer for all feeds takes less memory than one for each.
    """

    says_more_after_the_end: ClassVar[bool] = False  # whether events worth hearing may follow the one that tells it

    def __init__(self, pace: Pace) -> None:
        self.ended = False
        self.failure: ResearchError | None = None
        self.changed = anyio.Event()
        self.tell_owner: Callable[[], None] = _tell_nobody
        self._told_state: object = None
        self._pace = pace
        self._news = 0  # changes told by streams or statuses
        self._open: _Connection | None = None
        self._doubted_at = -float("inf")

    # ---- what a feed of one kind knows

    @property
    @abstractmethod
    def is_known(self) -> bool:
        """Whether the status has been seen at all."""

    @property
    @abstractmethod
    def is_over(self) -> bool:
        """Whether nothing more is to be waited for."""

    @property
    def state(self) -> object:
        """What a list of the owner's runs says of it; None while it is not known."""
        return self.is_over if self.is_known else None

    @abstractmethod
    async def look(self) -> None:
        """Ask for the status."""

    @abstractmethod
    def connect(self) -> AbstractAsyncContextManager[AsyncGenerator[_Event]]:
        """Open the event stream."""

    @abstractmethod
    def take(self, event: _Event) -> None:
        """Take an event in, with `tell_news` if it changed what is known."""

    @abstractmethod
    def tells_end(self, event: _Event) -> bool | None:
        """Whether an event tells that it is over; None if it tells nothing about that."""

    # ---- following

    async def keep_current(self) -> None:
        """Follow until it is over, or until reading it fails for good (`failure`)."""
        try:
            await self._follow()
        except ResearchError as error:
            self.failure = error

    def stop(self) -> None:
        """Nothing more will come; whoever waits is told."""
        self.ended = True
        self._tell()

    def tell_news(self) -> None:
        """Wake those who wait for a change."""
        self._news += 1
        before, self._told_state = self._told_state, self.state
        if before is not None and before != self._told_state:
            self.tell_owner()
        self._tell()

    def _tell(self) -> None:
        changed, self.changed = self.changed, anyio.Event()
        changed.set()

    async def _follow(self) -> None:
        fruitless = 0  # connections since the last one that brought news
        while True:
            known = self._news
            stream = self._connection(fruitless)
            await self._follow_stream(stream)
            if stream.told_the_end:
                return
            fruitless = 0 if self._news > known else fruitless + 1
            if await self._has_ended_by_status() or await self._ends_while_pausing(fruitless, stream.failure):
                await self._read_stream(self._connection(0))  # for what happened since the stream broke
                if await self._has_ended_by_status():  # asked again if it told another state, a replayed one perhaps
                    return

    def _connection(self, fruitless: int) -> _Connection:
        now = anyio.current_time()
        scope = anyio.CancelScope(deadline=now + self._pace.connection_s)
        return _Connection(scope, now, silent_for_s=_grown(self._pace.silent_connection_s, 2, fruitless))

    async def _follow_stream(self, stream: _Connection) -> None:
        """Read one connection to its end, to the end of all, or until it has been silent for too long."""
        self._open = stream
        try:
            await self._read_stream(stream)
        finally:
            self._open = None
            if stream.look is not None:
                stream.look.cancel()

    async def _read_stream(self, stream: _Connection) -> None:
        """Read to the end of the stream; where all is over, until it has no more to say."""
        over_at = stream.opened_at if self.is_over else float("inf")
        try:
            with stream.scope as scope:
                at_latest = scope.deadline
                scope.deadline = min(at_latest, over_at + self._pace.last_words_s)
                async with self.connect() as events:
                    async for event in events:
                        stream.heard_at = anyio.current_time()
                        self.take(event)
                        stream.note(self.tells_end(event))
                        if stream.told_the_end and not self.says_more_after_the_end:
                            return
                        if isinstance(event, ErrorEvent):
                            await self._look_in_doubt()
                        if self.is_over:
                            over_at = min(over_at, stream.heard_at)
                            all_by = min(at_latest, over_at + self._pace.all_last_words_s)
                            scope.deadline = min(all_by, stream.heard_at + self._pace.last_words_s)
            stream.told_the_end = stream.ends_with_the_end
        except ResearchError as error:
            logger.info("An event stream failed: %s", error)
            stream.failure = error

    # ---- silence

    @property
    def attend_at(self) -> float:
        """When `attend` will have something to do: the open connection may have begun to be silent by then."""
        stream = self._open
        if stream is None or stream.look is not None:
            return float("inf")
        if not stream.has_begun and stream.looked_at is None:
            return stream.opened_at + self._pace.first_event_s
        silent_since = max(stream.heard_at, stream.looked_at or 0.0)
        return min(silent_since + self._pace.silence_s, stream.heard_at + stream.silent_for_s)

    def about_to_look(self) -> None:
        """The status is going to be read, since the time for it has come."""

    async def attend(self) -> None:
        """Close a connection that has been silent for too long, or behind whose silence it is over.

        Ends early with the connection. Calls that have nothing to do cost nothing.
        """
        stream, now = self._open, anyio.current_time()
        if stream is None or now < self.attend_at:
            return
        if now >= stream.heard_at + stream.silent_for_s:
            stream.scope.cancel()
            return
        self.about_to_look()
        stream.looked_at = now
        stream.look = anyio.CancelScope()
        try:
            with stream.look:
                if await self._is_over_at_a_look():
                    stream.scope.cancel()
        finally:
            stream.look = None

    # ---- the status

    async def _look_in_doubt(self) -> None:
        """An error in the stream leaves open what became of it: look, but not at each of many errors."""
        now = anyio.current_time()
        if now - self._doubted_at >= self._pace.doubt_s:
            self._doubted_at = now
            with anyio.move_on_after(self._pace.silence_s):
                await self._is_over_at_a_look()

    async def _is_over_at_a_look(self) -> bool:
        """Ask for the status while a stream is open: if it cannot be had, the stream goes on all the same."""
        try:
            await self.look()
        except ResearchError as error:
            logger.info("The status could not be read: %s", error)
        return self.is_over

    async def _has_ended_by_status(self) -> bool:
        """Ask for the status if need be; once there was one, a failure that may pass does not end the watch."""
        if self.is_over:
            return True
        try:
            await self.look()
        except (UpstreamUnavailable, UpstreamUnreadable, RateLimited) as error:
            if not self.is_known:
                raise
            logger.info("The status could not be read: %s", error)
        return self.is_over

    async def _ends_while_pausing(self, fruitless: int, failure: ResearchError | None) -> bool:
        """Wait before connecting again; where connecting brings nothing, ask for the status, ever less often."""
        if fruitless < FRUITLESS_BEFORE_POLLING:
            told_s = (failure.retry_after_s or 0.0) if isinstance(failure, UpstreamError) else 0.0
            told_s = min(self._pace.max_pause_s, told_s) * random.uniform(1.0, 1.25)  # no sooner than told
            pause_s = min(self._pace.max_pause_s, _jittered(_grown(self._pace.pause_s, 2, fruitless)))
            return await self._ends_within(max(told_s, pause_s))
        polls_before = (fruitless - FRUITLESS_BEFORE_POLLING) * POLLS_BETWEEN_CONNECTIONS
        for polls in range(polls_before, polls_before + POLLS_BETWEEN_CONNECTIONS):
            await anyio.sleep(min(self._pace.max_poll_s, _jittered(_grown(self._pace.poll_s, 1.5, polls))))
            if await self._has_ended_by_status():
                return True
        return False

    async def _ends_within(self, pause_s: float) -> bool:
        """Wait, and read the status meanwhile as often as in a silence: only the stream may have said to wait."""
        until = anyio.current_time() + pause_s
        while (left_s := until - anyio.current_time()) > self._pace.silence_s:
            await anyio.sleep(_jittered(self._pace.silence_s))
            if await self._has_ended_by_status():
                return True
        await anyio.sleep(max(0.0, left_s))
        return False


@dataclass(eq=False, slots=True)
class _Connection:
    """One connection to an event stream, and what it has come to."""

    scope: anyio.CancelScope
    opened_at: float
    silent_for_s: float  # at most
    heard_at: float = field(init=False)
    looked_at: float | None = None  # because it was silent
    look: anyio.CancelScope | None = None  # one that goes on
    failure: ResearchError | None = None
    has_begun: bool = False
    told_the_end: bool = False
    ends_with_the_end: bool = False

    def __post_init__(self) -> None:
        self.heard_at = self.opened_at

    def note(self, tells_end: bool | None) -> None:
        """The state as it is comes first, what happened before after it; the end told after that is the end."""
        if tells_end is not None:
            self.ends_with_the_end = tells_end
            self.told_the_end = tells_end and self.has_begun
            self.has_begun = True


def _tell_nobody() -> None:
    """Nobody follows what the owner has."""


def _grown(first_s: float, factor: float, times: int) -> float:
    return first_s * factor ** min(times, 20)


def _jittered(seconds: float) -> float:
    """Not quite that long, so that watchers whose streams broke together do not come back together."""
    return random.uniform(0.5, 1.0) * seconds
