"""Keeps the known state of one run up to date: from its event stream, and from its status where the stream fails."""

from __future__ import annotations

import logging
import random
import time
from typing import TYPE_CHECKING, TypeVar

import anyio
from anyio.abc import TaskGroup

from parallel_mcp.api.models import (
    ErrorEvent,
    Event,
    ProgressMessageEvent,
    ProgressStatsEvent,
    RunStateEvent,
    TaskRun,
)
from parallel_mcp.errors import NotFound, RateLimited, ResearchError, UpstreamUnavailable, UpstreamUnreadable
from parallel_mcp.tasks.trace import MAX_MESSAGE_CHARS, Message, Replay, Trace

if TYPE_CHECKING:
    from parallel_mcp.api.client import ParallelApi

SILENCE_S = 15.0
CONNECTION_S = 600.0
LAST_WORDS_S = 3.0
FRUITLESS_BEFORE_POLLING = 3
FIRST_PAUSE_S = 0.5
MAX_PAUSE_S = 10.0

# Failures of a stream that a look at the status, or another connection, may get around.
_PASSING = (UpstreamUnavailable, UpstreamUnreadable, RateLimited, NotFound)

_Number = TypeVar("_Number", int, float)

logger = logging.getLogger(__name__)


class RunFeed:
    """What is known of a run. `changed` is replaced and set at each change, so nobody who waits is left behind."""

    def __init__(self, api: ParallelApi, run_id: str) -> None:
        self.run_id = run_id
        self.run: TaskRun | None = None
        self.trace = Trace()
        self.meter: float | None = None
        self.sources_read: int | None = None
        self.sources_considered: int | None = None
        self.ended = False
        self.failure: ResearchError | None = None
        self.changed = anyio.Event()
        self._api = api
        self._last_event_at = time.monotonic()

    async def keep_current(self) -> None:
        """Follow the run until it is no longer active, or until reading it fails for good (`failure`)."""
        try:
            await self._follow()
        except ResearchError as error:
            self.failure = error

    def stop(self) -> None:
        """Nothing more will come; whoever waits is told."""
        self.ended = True
        self._tell()

    async def _follow(self) -> None:
        fruitless = 0
        while True:
            known = len(self.trace)
            failure = await self._follow_stream()
            if self._is_over:
                return
            if failure is not None and not isinstance(failure, _PASSING):
                raise failure
            fruitless = 0 if len(self.trace) > known else fruitless + 1
            if await self._has_ended_by_status() or await self._ends_while_pausing(fruitless):
                with anyio.move_on_after(LAST_WORDS_S):  # the steps since the stream broke, if it can be had again
                    await self._read_stream()
                return

    async def _follow_stream(self) -> ResearchError | None:
        """Read one connection to its end, or to the end of the run; the error that ended it, if one did."""
        failure: ResearchError | None = None
        with anyio.move_on_after(CONNECTION_S):
            async with anyio.create_task_group() as reading:
                reading.start_soon(self._check_when_silent, reading)
                failure = await self._read_stream()
                reading.cancel_scope.cancel()
        return failure

    async def _read_stream(self) -> ResearchError | None:
        self._last_event_at = time.monotonic()
        replay = Replay(self.trace)
        try:
            async with self._api.run_events(self.run_id) as events:
                with anyio.CancelScope() as hearing:
                    async for event in events:
                        self._last_event_at = time.monotonic()
                        self._take(event, replay)
                        if isinstance(event, ErrorEvent):
                            await self._look_at_status()  # what became of the run is not said
                        if self._is_over:
                            # The state of an ended run comes first, its messages after it: hear them out, briefly.
                            hearing.deadline = min(hearing.deadline, anyio.current_time() + LAST_WORDS_S)
        except ResearchError as error:
            logger.info("Event stream of a run failed: %s", error)
            return error
        return None

    def _take(self, event: Event, replay: Replay) -> None:
        match event:
            case RunStateEvent(run=run):
                self._take_run(run)
            case ProgressMessageEvent():
                message = Message(event.type, event.timestamp, event.message[:MAX_MESSAGE_CHARS])
                if replay.add(message):
                    self._take_as_started()
                    self._tell()
            case ProgressStatsEvent(source_stats=sources):
                self.meter = _newest(event.progress_meter, self.meter)
                self.sources_read = _newest(sources.num_sources_read, self.sources_read)
                self.sources_considered = _newest(sources.num_sources_considered, self.sources_considered)
                self._tell()
            case _:
                pass

    def _take_run(self, run: TaskRun) -> None:
        if not self._is_over:  # a terminal state stays: an old replica may still answer `running`
            self.run = run
            self._tell()

    def _take_as_started(self) -> None:
        """A queued run that reports steps has started; the stream states it again only at its end."""
        if self.run is not None and self.run.status == "queued":
            self.run = self.run.model_copy(update={"status": "running"})

    async def _check_when_silent(self, reading: TaskGroup) -> None:
        while True:
            await anyio.sleep(max(0.1, self._last_event_at + SILENCE_S - time.monotonic()))
            if time.monotonic() - self._last_event_at < SILENCE_S:
                continue
            self._last_event_at = time.monotonic()
            await self._look_at_status()
            if self._is_over:
                reading.cancel_scope.cancel()

    async def _look_at_status(self) -> None:
        """Ask for the status while a stream is open: if it cannot be had, the stream goes on all the same."""
        try:
            self._take_run(await self._api.retrieve_run(self.run_id))
        except ResearchError as error:
            logger.info("Status of a run could not be read: %s", error)

    async def _has_ended_by_status(self) -> bool:
        """Ask for the status; once the run has been seen, a failure that may pass does not end the watch."""
        try:
            self._take_run(await self._api.retrieve_run(self.run_id))
        except (UpstreamUnavailable, UpstreamUnreadable, RateLimited) as error:
            if self.run is None:
                raise
            logger.info("Status of a run could not be read: %s", error)
        return self._is_over

    async def _ends_while_pausing(self, fruitless: int) -> bool:
        """Wait before connecting again; where connecting brings nothing, ask for the status, ever less often."""
        if fruitless < FRUITLESS_BEFORE_POLLING:
            await anyio.sleep(random.uniform(0.5, 1.0) * min(MAX_PAUSE_S, FIRST_PAUSE_S * 2**fruitless))
            return False
        for polls in range(4):
            await anyio.sleep(min(MAX_PAUSE_S, 2.0 * 1.5**polls))
            if await self._has_ended_by_status():
                return True
        return False

    @property
    def _is_over(self) -> bool:
        return self.run is not None and not self.run.is_active

    def _tell(self) -> None:
        changed, self.changed = self.changed, anyio.Event()
        changed.set()


def _newest(value: _Number | None, known: _Number | None) -> _Number | None:
    """A number of the API, which leaves one out now and then."""
    return known if value is None else value
