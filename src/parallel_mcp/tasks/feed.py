"""Following what goes on upstream: by its event stream, and by its status where the stream fails."""

from __future__ import annotations

import logging
import random
import time
from abc import ABC, abstractmethod

import anyio
from anyio.abc import TaskGroup

from parallel_mcp.errors import NotFound, RateLimited, ResearchError, UpstreamUnavailable, UpstreamUnreadable

SILENCE_S = 15.0
CONNECTION_S = 600.0
LAST_WORDS_S = 3.0
FRUITLESS_BEFORE_POLLING = 3
FIRST_PAUSE_S = 0.5
MAX_PAUSE_S = 10.0

# Failures of a stream that a look at the status, or another connection, may get around.
_PASSING = (UpstreamUnavailable, UpstreamUnreadable, RateLimited, NotFound)

logger = logging.getLogger(__name__)


class Feed(ABC):
    """What is known of a run or a group.

    `changed` is replaced and set at each change, so nobody who waits is left behind.
    """

    def __init__(self) -> None:
        self.ended = False
        self.failure: ResearchError | None = None
        self.changed = anyio.Event()
        self._last_event_at = time.monotonic()

    @property
    @abstractmethod
    def is_known(self) -> bool:
        """Whether the status has been seen at all."""

    @property
    @abstractmethod
    def is_over(self) -> bool:
        """Whether nothing more is to be waited for."""

    @property
    @abstractmethod
    def news(self) -> int:
        """A number that grows with each thing worth telling: a connection that does not raise it was fruitless."""

    @abstractmethod
    async def look(self) -> None:
        """Ask for the status."""

    @abstractmethod
    async def read_stream(self) -> None:
        """Read one connection to its end, saying `heard` at each event."""

    async def keep_current(self) -> None:
        """Follow until it is over, or until reading it fails for good (`failure`)."""
        try:
            await self._follow()
        except ResearchError as error:
            self.failure = error

    def stop(self) -> None:
        """Nothing more will come; whoever waits is told."""
        self.ended = True
        self.tell()

    def heard(self) -> None:
        """The stream is not silent."""
        self._last_event_at = time.monotonic()

    def tell(self) -> None:
        """Wake those who wait for a change."""
        changed, self.changed = self.changed, anyio.Event()
        changed.set()

    async def look_if_possible(self) -> None:
        """Ask for the status while a stream is open: if it cannot be had, the stream goes on all the same."""
        try:
            await self.look()
        except ResearchError as error:
            logger.info("The status could not be read: %s", error)

    async def _follow(self) -> None:
        fruitless = 0
        while True:
            known = self.news
            failure = await self._follow_stream()
            if self.is_over:
                return
            if failure is not None and not isinstance(failure, _PASSING):
                raise failure
            fruitless = 0 if self.news > known else fruitless + 1
            if await self._is_over_by_status() or await self._ends_while_pausing(fruitless):
                with anyio.move_on_after(LAST_WORDS_S):  # the steps since the stream broke, if it can be had again
                    await self._read_stream()
                return

    async def _follow_stream(self) -> ResearchError | None:
        """Read one connection to its end, or to the end of all; the error that ended it, if one did."""
        failure: ResearchError | None = None
        with anyio.move_on_after(CONNECTION_S):
            async with anyio.create_task_group() as reading:
                reading.start_soon(self._check_when_silent, reading)
                failure = await self._read_stream()
                reading.cancel_scope.cancel()
        return failure

    async def _read_stream(self) -> ResearchError | None:
        self.heard()
        try:
            await self.read_stream()
        except ResearchError as error:
            logger.info("An event stream failed: %s", error)
            return error
        return None

    async def _check_when_silent(self, reading: TaskGroup) -> None:
        while True:
            await anyio.sleep(max(0.1, self._last_event_at + SILENCE_S - time.monotonic()))
            if time.monotonic() - self._last_event_at < SILENCE_S:
                continue
            self.heard()
            await self.look_if_possible()
            if self.is_over:
                reading.cancel_scope.cancel()

    async def _is_over_by_status(self) -> bool:
        """Ask for the status; once there was one, a failure that may pass does not end the watch."""
        try:
            await self.look()
        except (UpstreamUnavailable, UpstreamUnreadable, RateLimited) as error:
            if not self.is_known:
                raise
            logger.info("The status could not be read: %s", error)
        return self.is_over

    async def _ends_while_pausing(self, fruitless: int) -> bool:
        """Wait before connecting again; where connecting brings nothing, ask for the status, ever less often."""
        if fruitless < FRUITLESS_BEFORE_POLLING:
            await anyio.sleep(random.uniform(0.5, 1.0) * min(MAX_PAUSE_S, FIRST_PAUSE_S * 2**fruitless))
            return False
        for polls in range(4):
            await anyio.sleep(min(MAX_PAUSE_S, 2.0 * 1.5**polls))
            if await self._is_over_by_status():
                return True
        return False
