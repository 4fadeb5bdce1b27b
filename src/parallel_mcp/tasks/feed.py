"""Following what goes on upstream: by its event stream, and by its status where the stream fails."""

from __future__ import annotations

import logging
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
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


USUAL_PACE = Pace()


class Feed(ABC, Generic[_Event]):
    """What is known of something that goes on upstream, kept up to date.

    `changed` is replaced and set at each change, so nobody who waits is left behind.
    """

    says_more_after_the_end: ClassVar[bool] = False  # whether events worth hearing may follow the one that tells it

    def __init__(self, pace: Pace = USUAL_PACE) -> None:
        self.ended = False
        self.failure: ResearchError | None = None
        self.changed = anyio.Event()
        self._pace = pace
        self._news = 0  # changes told by streams or statuses
        self._heard_at = -float("inf")
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
        self._tell()

    def _tell(self) -> None:
        changed, self.changed = self.changed, anyio.Event()
        changed.set()

    async def _follow(self) -> None:
        fruitless = 0  # connections since the last one that brought news
        while True:
            known = self._news
            stream = _Connection()
            await self._follow_stream(stream, fruitless)
            if stream.told_the_end:
                return
            fruitless = 0 if self._news > known else fruitless + 1
            if await self._has_ended_by_status() or await self._ends_while_pausing(fruitless, stream.failure):
                await self._read_stream(_Connection())  # for what happened since the stream broke
                return

    async def _follow_stream(self, stream: _Connection, fruitless: int) -> None:
        """Read one connection to its end, to the end of all, or until it has been silent for too long."""
        async with anyio.create_task_group() as reading:
            reading.cancel_scope.deadline = anyio.current_time() + self._pace.connection_s

            async def end_when_silent() -> None:
                await self._wait_for_silence(stream, _grown(self._pace.silent_connection_s, 2, fruitless))
                reading.cancel_scope.cancel()

            reading.start_soon(end_when_silent)
            await self._read_stream(stream)
            reading.cancel_scope.cancel()

    async def _read_stream(self, stream: _Connection) -> None:
        """Read to the end of the stream; where all is over, until it has no more to say."""
        self._heard_at = anyio.current_time()
        over_at = self._heard_at if self.is_over else float("inf")
        try:
            with anyio.CancelScope(deadline=over_at + self._pace.last_words_s) as hearing:
                async with self.connect() as events:
                    async for event in events:
                        self._heard_at = anyio.current_time()
                        self.take(event)
                        stream.note(self.tells_end(event))
                        if stream.told_the_end and not self.says_more_after_the_end:
                            return
                        if isinstance(event, ErrorEvent):
                            await self._look_in_doubt()
                        if self.is_over:
                            over_at = min(over_at, self._heard_at)
                            all_by = over_at + self._pace.all_last_words_s
                            hearing.deadline = min(all_by, self._heard_at + self._pace.last_words_s)
            stream.told_the_end = stream.ends_with_the_end
        except ResearchError as error:
            logger.info("An event stream failed: %s", error)
            stream.failure = error

    # ---- the status

    async def _wait_for_silence(self, stream: _Connection, bound_s: float) -> None:
        """Read the status at each silence; return if it is over behind it, or if it lasted for `bound_s`."""
        await anyio.sleep(self._pace.first_event_s)
        if not stream.has_begun and await self._is_over_at_a_look():
            return
        silent_s = 0.0
        while silent_s < bound_s:
            heard_at = self._heard_at
            await anyio.sleep_until(heard_at + silent_s + self._pace.silence_s)
            silent_s = silent_s + self._pace.silence_s if self._heard_at == heard_at else 0.0
            if silent_s and await self._is_over_at_a_look():
                return

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
            pause_s = max(told_s, _jittered(_grown(self._pace.pause_s, 2, fruitless)))
            await anyio.sleep(min(self._pace.max_pause_s, pause_s))
            return False
        polls_before = (fruitless - FRUITLESS_BEFORE_POLLING) * POLLS_BETWEEN_CONNECTIONS
        for polls in range(polls_before, polls_before + POLLS_BETWEEN_CONNECTIONS):
            await anyio.sleep(min(self._pace.max_poll_s, _jittered(_grown(self._pace.poll_s, 1.5, polls))))
            if await self._has_ended_by_status():
                return True
        return False


class _Connection:
    """What one connection to an event stream has come to."""

    def __init__(self) -> None:
        self.failure: ResearchError | None = None
        self.has_begun = False
        self.told_the_end = False
        self.ends_with_the_end = False

    def note(self, tells_end: bool | None) -> None:
        """The state as it is comes first, what happened before after it; the end told after that is the end."""
        if tells_end is not None:
            self.ends_with_the_end = tells_end
            self.told_the_end = tells_end and self.has_begun
            self.has_begun = True


def _grown(first_s: float, factor: float, times: int) -> float:
    return first_s * factor ** min(times, 20)


def _jittered(seconds: float) -> float:
    """Not quite that long, so that watchers whose streams broke together do not come back together."""
    return random.uniform(0.5, 1.0) * seconds
