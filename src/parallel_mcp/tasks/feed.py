"""Keeps the known state of one run up to date: from its event stream, and from its status where the stream fails."""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import anyio

from parallel_mcp.api.models import (
    ErrorEvent,
    Event,
    ProgressMessageEvent,
    ProgressStatsEvent,
    RunStateEvent,
    TaskRun,
)
from parallel_mcp.errors import RateLimited, ResearchError, UpstreamError, UpstreamUnavailable, UpstreamUnreadable
from parallel_mcp.tasks.trace import Message, Replay, Trace

if TYPE_CHECKING:
    from parallel_mcp.api.client import ParallelApi

FRUITLESS_BEFORE_POLLING = 3
POLLS_BETWEEN_CONNECTIONS = 4

_Number = TypeVar("_Number", int, float)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pace:
    """How long a feed waits for what, in seconds. What grows does so with each connection that brought no news."""

    first_event_s: float = 2.0  # the state as it is, which comes at once: without it, the status is read
    silence_s: float = 15.0  # without an event: the status is read
    silent_connection_s: float = 45.0  # without an event: the connection may be dead (grows)
    connection_s: float = 600.0  # the API ends its streams after 570
    last_words_s: float = 3.0  # for what a stream has to say after it has told the end
    pause_s: float = 0.5  # before connecting again (grows)
    max_pause_s: float = 60.0
    poll_s: float = 2.0  # between looks at the status while connecting brings nothing (grows)
    max_poll_s: float = 15.0
    doubt_s: float = 2.0  # between looks at the status because of errors in the stream


class RunFeed:
    """What is known of a run. `changed` is replaced and set at each change, so nobody who waits is left behind."""

    def __init__(self, api: ParallelApi, run_id: str, pace: Pace = Pace()) -> None:
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
        self._pace = pace
        self._news = 0  # changes told by streams or statuses
        self._heard_at = -float("inf")
        self._doubted_at = -float("inf")

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
        fruitless = 0  # connections since the last one that brought news
        while True:
            known = self._news
            stream = _Connection()
            await self._follow_stream(stream, fruitless)
            if stream.told_the_end:
                return
            fruitless = 0 if self._news > known else fruitless + 1
            if await self._has_ended_by_status() or await self._ends_while_pausing(fruitless, stream.failure):
                with anyio.move_on_after(self._pace.last_words_s):  # the steps since the stream broke
                    await self._read_stream(_Connection())
                return

    async def _follow_stream(self, stream: _Connection, fruitless: int) -> None:
        """Read one connection to its end, to the end of the run, or until it has been silent for too long."""
        with anyio.move_on_after(self._pace.connection_s):
            async with anyio.create_task_group() as reading:

                async def watch_for_silence() -> None:
                    await anyio.sleep(self._pace.first_event_s)
                    if not stream.has_begun:
                        await self._look_at_status()
                    await self._check_when_silent(_grown(self._pace.silent_connection_s, 2, fruitless))
                    reading.cancel_scope.cancel()

                reading.start_soon(watch_for_silence)
                await self._read_stream(stream)
                reading.cancel_scope.cancel()

    async def _read_stream(self, stream: _Connection) -> None:
        self._heard_at = anyio.current_time()
        replay = Replay(self.trace)
        try:
            async with self._api.run_events(self.run_id) as events:
                with anyio.CancelScope() as hearing:
                    async for event in events:
                        self._heard_at = anyio.current_time()
                        self._take(event, replay)
                        if isinstance(event, ErrorEvent):
                            await self._look_at_status_in_doubt()
                        stream.note(event)
                        if stream.told_the_end:
                            return
                        if self._is_over:
                            # The state of an ended run comes first, its messages after it: hear them out, briefly.
                            hearing.deadline = min(hearing.deadline, self._heard_at + self._pace.last_words_s)
            stream.told_the_end = stream.ends_with_the_end
        except ResearchError as error:
            logger.info("Event stream of a run failed: %s", error)
            stream.failure = error

    def _take(self, event: Event, replay: Replay) -> None:
        match event:
            case RunStateEvent(run=run):
                self._take_run(run)
            case ProgressMessageEvent():
                if replay.add(Message(event.type, event.timestamp, event.message)):
                    self._take_as_started()
                    self._tell_news()
            case ProgressStatsEvent():
                self._take_stats(event)
            case _:
                pass

    def _take_run(self, run: TaskRun) -> None:
        if self._is_over:  # a terminal state stays: an old replica may still answer `running`
            return
        before, self.run = self.run, run
        if len(self.trace):
            self._take_as_started()
        if before is None or (before.status, before.is_active) != (self.run.status, self.run.is_active):
            self._tell_news()

    def _take_as_started(self) -> None:
        """A queued run that reports steps has started; the stream states it again only at its end."""
        if self.run is not None and self.run.status == "queued":
            self.run = self.run.model_copy(update={"status": "running"})

    def _take_stats(self, stats: ProgressStatsEvent) -> None:
        before = (self.meter, self.sources_read, self.sources_considered)
        self.meter = _newest(stats.progress_meter, self.meter)
        self.sources_read = _newest(stats.source_stats.num_sources_read, self.sources_read)
        self.sources_considered = _newest(stats.source_stats.num_sources_considered, self.sources_considered)
        if before != (self.meter, self.sources_read, self.sources_considered):
            self._tell_news()

    async def _check_when_silent(self, bound_s: float) -> None:
        """Read the status at each silence, until the run has ended or the connection was silent for `bound_s`."""
        silent_s = 0.0
        while silent_s < bound_s and not self._is_over:
            heard_at = self._heard_at
            await anyio.sleep_until(heard_at + silent_s + self._pace.silence_s)
            silent_s = silent_s + self._pace.silence_s if self._heard_at == heard_at else 0.0
            if silent_s:
                await self._look_at_status()

    async def _look_at_status_in_doubt(self) -> None:
        """An error in the stream leaves open what became of the run: look, but not at each of many errors."""
        now = anyio.current_time()
        if now - self._doubted_at >= self._pace.doubt_s:
            self._doubted_at = now
            with anyio.move_on_after(self._pace.silence_s):
                await self._look_at_status()

    async def _look_at_status(self) -> None:
        """Ask for the status while a stream is open: if it cannot be had, the stream goes on all the same."""
        try:
            self._take_run(await self._api.retrieve_run(self.run_id))
        except ResearchError as error:
            logger.info("Status of a run could not be read: %s", error)

    async def _has_ended_by_status(self) -> bool:
        """Ask for the status if need be; once the run has been seen, a failure that may pass does not end the watch."""
        if self._is_over:
            return True
        try:
            self._take_run(await self._api.retrieve_run(self.run_id))
        except (UpstreamUnavailable, UpstreamUnreadable, RateLimited) as error:
            if self.run is None:
                raise
            logger.info("Status of a run could not be read: %s", error)
        return self._is_over

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

    @property
    def _is_over(self) -> bool:
        return self.run is not None and not self.run.is_active

    def _tell_news(self) -> None:
        self._news += 1
        self._tell()

    def _tell(self) -> None:
        changed, self.changed = self.changed, anyio.Event()
        changed.set()


class _Connection:
    """What one connection to the event stream has come to."""

    def __init__(self) -> None:
        self.failure: ResearchError | None = None
        self.has_begun = False
        self.told_the_end = False
        self.ends_with_the_end = False

    def note(self, event: Event) -> None:
        """The state as it is comes first, the messages so far after it; an inactive state after that is the end."""
        if isinstance(event, RunStateEvent | ProgressMessageEvent | ProgressStatsEvent):
            self.ends_with_the_end = isinstance(event, RunStateEvent) and not event.run.is_active
            self.told_the_end = self.ends_with_the_end and self.has_begun
            self.has_begun = True


def _newest(value: _Number | None, known: _Number | None) -> _Number | None:
    """A number of the API, which leaves one out now and then."""
    return known if value is None else value


def _grown(first_s: float, factor: float, times: int) -> float:
    return first_s * factor ** min(times, 20)


def _jittered(seconds: float) -> float:
    """Not quite that long, so that watchers whose streams broke together do not come back together."""
    return random.uniform(0.5, 1.0) * seconds
