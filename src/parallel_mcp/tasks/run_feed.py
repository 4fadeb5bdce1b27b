"""Keeps the known state of a run up to date: its status, its messages, and how far it is."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TYPE_CHECKING, TypeVar

from parallel_mcp.api.models import Event, ProgressMessageEvent, ProgressStatsEvent, RunStateEvent, TaskRun
from parallel_mcp.tasks.feed import Feed, Pace
from parallel_mcp.tasks.trace import Message, Replay, Trace

if TYPE_CHECKING:
    from parallel_mcp.api.client import ParallelApi

QUEUED_SHARE = 0.05  # of the time waited for the start: the next look for it comes no sooner

_Number = TypeVar("_Number", int, float)


class RunFeed(Feed[Event]):
    """What is known of a run. Each connection to its stream replays its messages from the start."""

    def __init__(self, api: ParallelApi, run_id: str, pace: Pace) -> None:
        super().__init__(pace)
        self.run_id = run_id
        self.run: TaskRun | None = None
        self.trace = Trace()
        self.meter: float | None = None
        self.sources_read: int | None = None
        self.sources_considered: int | None = None
        self._api = api
        self._replay = Replay(self.trace)
        self._await_start = 0

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
        self._await_start += 1
        try:
            yield
        finally:
            self._await_start -= 1

    @property
    def attend_at(self) -> float:
        """When to look at a silent stream, or for the start."""
        return min(super().attend_at, self._look_for_start_at())

    def _look_for_start_at(self) -> float:
        stream, is_queued = self._open, self.run is not None and self.run.status == "queued"
        if stream is None or stream.look is not None or not is_queued or not self._await_start:
            return float("inf")
        looked_at = stream.looked_at or stream.opened_at
        return looked_at + max(self._pace.queued_s, (looked_at - stream.opened_at) * QUEUED_SHARE)

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
        if len(self.trace):
            self._take_as_started()
        if before is None or (before.status, before.is_active) != (self.run.status, self.run.is_active):
            self.tell_news()

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
            self.tell_news()


def _newest(value: _Number | None, known: _Number | None) -> _Number | None:
    """A number of the API, which leaves one out now and then."""
    return known if value is None else value
