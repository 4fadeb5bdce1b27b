"""Keeps the known state of a run up to date: its status, its messages, and how far it is."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TYPE_CHECKING, TypeVar

import anyio

from parallel_mcp.api.models import Event, ProgressMessageEvent, ProgressStatsEvent, RunStateEvent, TaskRun
from parallel_mcp.tasks.feed import Feed, Pace
from parallel_mcp.tasks.trace import Message, Replay, Trace

if TYPE_CHECKING:
    from parallel_mcp.api.client import ParallelApi

QUEUED_SHARE = 0.05  # of the time that the stream is open: the next look for the start comes no sooner
START_LOOKS_PER_S = 5.0  # of all runs of an owner: with a few, each is looked at about every second
START_LOOKS_AT_ONCE = 5

_Number = TypeVar("_Number", int, float)


class StartLooks:
    """The looks for the starts of queued runs that the feeds of one owner have in common, however many await one."""

    def __init__(self) -> None:
        self._awaiting: set[RunFeed] = set()
        self._spent_until = -float("inf")

    @property
    def turn_s(self) -> float:
        """How long it takes until each of the runs has had a look."""
        return len(self._awaiting) / START_LOOKS_PER_S

    @property
    def possible_at(self) -> float:
        """When there is one to be had."""
        return self._spent_until - (START_LOOKS_AT_ONCE - 1) / START_LOOKS_PER_S

    def note(self, feed: RunFeed, *, awaits_start: bool) -> None:
        """Whether somebody waits for the start of this run."""
        if awaits_start:
            self._awaiting.add(feed)
        else:
            self._awaiting.discard(feed)

    def spend(self) -> None:
        """One has a look now."""
        self._spent_until = max(self._spent_until, anyio.current_time()) + 1 / START_LOOKS_PER_S


class RunFeed(Feed[Event]):
    """What is known of a run. Each connection to its stream replays its messages from the start."""

    def __init__(
        self, api: ParallelApi, run_id: str, pace: Pace, start_looks: StartLooks, known: TaskRun | None = None
    ) -> None:
        super().__init__(pace)
        self.run_id = run_id
        self.run = known
        self.trace = Trace()
        self.meter: float | None = None
        self.sources_read: int | None = None
        self.sources_considered: int | None = None
        self._api = api
        self._replay = Replay(self.trace)
        self._start_looks = start_looks
        self._waiting_for_start = 0

    @property
    def is_known(self) -> bool:
        """Whether the run has been seen."""
        return self.run is not None

    @property
    def is_over(self) -> bool:
        """Whether the run is no longer active: ended, or stopped in `action_required`."""
        return self.run is not None and not self.run.is_active

    @property
    def state(self) -> object:
        """The status."""
        return self.run.status if self.run else None

    @property
    def latest(self) -> Message | None:
        """The newest step of the research."""
        return self.trace.since(len(self.trace) - 1)[0] if len(self.trace) else None

    @contextmanager
    def awaiting_start(self) -> Generator[None]:
        """Look for the start of the run while the block lasts: the stream is silent when a queued run starts."""
        self._waiting_for_start += 1
        self._note_whether_start_is_awaited()
        try:
            yield
        finally:
            self._waiting_for_start -= 1
            self._note_whether_start_is_awaited()

    @property
    def attend_at(self) -> float:
        """When to look at a silent stream, or for the start."""
        return min(super().attend_at, self._look_for_start_at())

    def about_to_look(self) -> None:
        """A look for the start is one of those that the owner has, before another feed takes it."""
        if self._look_for_start_at() <= anyio.current_time():
            self._start_looks.spend()

    @property
    def _awaits_start(self) -> bool:
        return self._waiting_for_start > 0 and self.run is not None and self.run.status == "queued"

    def _note_whether_start_is_awaited(self) -> None:
        self._start_looks.note(self, awaits_start=self._awaits_start)

    def _look_for_start_at(self) -> float:
        stream = self._open
        if stream is None or stream.look is not None or not self._awaits_start:
            return float("inf")
        return max(self._next_look_for_start_at(stream.opened_at, stream.looked_at), self._start_looks.possible_at)

    def _next_look_for_start_at(self, opened_at: float, looked_at: float | None) -> float:
        if looked_at is None:
            return opened_at + self._pace.queued_s
        return looked_at + max(self._pace.queued_s, self._start_looks.turn_s, (looked_at - opened_at) * QUEUED_SHARE)

    async def look(self) -> None:
        """Read the run."""
        self._take_run(await self._api.retrieve_run(self.run_id))

    def connect(self) -> AbstractAsyncContextManager[AsyncGenerator[Event]]:
        """Open the stream of the run, which begins with a replay."""
        self._replay = Replay(self.trace)
        return self._api.run_events(self.run_id)

    def take(self, event: Event) -> None:
        """Take an event in; a message that is known already is no news."""
        match event:
            case RunStateEvent(run=run):
                self._take_run(run)
            case ProgressMessageEvent():
                if self._replay.add(Message(event.type, event.timestamp, event.message)):
                    self._take_as_started()
                    self.tell_news()
            case ProgressStatsEvent():
                self._take_stats(event)
            case _:
                pass

    def tells_end(self, event: Event) -> bool | None:
        """A state that is not active tells the end, unless it is the state that comes first."""
        if isinstance(event, RunStateEvent | ProgressMessageEvent | ProgressStatsEvent):
            return isinstance(event, RunStateEvent) and not event.run.is_active
        return None

    def _take_run(self, run: TaskRun) -> None:
        if self.is_over:  # a terminal state stays: an old replica may still answer `running`
            return
        before, self.run = self.run, run
        if self._has_progressed:
            self._take_as_started()
        self._note_whether_start_is_awaited()
        if before is None or (before.status, before.is_active) != (self.run.status, self.run.is_active):
            self.tell_news()

    @property
    def _has_progressed(self) -> bool:
        return bool(len(self.trace) or self.meter or self.sources_read)

    def _take_as_started(self) -> None:
        """A queued run that reports steps or progress has started; the stream states it again only at its end."""
        if self.run is not None and self.run.status == "queued":
            self.run = self.run.model_copy(update={"status": "running"})
            self._note_whether_start_is_awaited()

    def _take_stats(self, stats: ProgressStatsEvent) -> None:
        before = (self.meter, self.sources_read, self.sources_considered)
        self.meter = _newest(stats.progress_meter, self.meter)
        self.sources_read = _newest(stats.source_stats.num_sources_read, self.sources_read)
        self.sources_considered = _newest(stats.source_stats.num_sources_considered, self.sources_considered)
        if self._has_progressed:
            self._take_as_started()
        if before != (self.meter, self.sources_read, self.sources_considered):
            self.tell_news()


def _newest(value: _Number | None, known: _Number | None) -> _Number | None:
    """A number of the API, which leaves one out now and then."""
    return known if value is None else value
