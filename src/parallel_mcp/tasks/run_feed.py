"""Keeps the known state of one run up to date: from its event stream, and from its status where the stream fails."""

from __future__ import annotations

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
from parallel_mcp.tasks.feed import LAST_WORDS_S, Feed
from parallel_mcp.tasks.trace import MAX_MESSAGE_CHARS, Message, Replay, Trace

if TYPE_CHECKING:
    from parallel_mcp.api.client import ParallelApi

_Number = TypeVar("_Number", int, float)


class RunFeed(Feed):
    """What is known of a run."""

    def __init__(self, api: ParallelApi, run_id: str) -> None:
        super().__init__()
        self.run_id = run_id
        self.run: TaskRun | None = None
        self.trace = Trace()
        self.meter: float | None = None
        self.sources_read: int | None = None
        self.sources_considered: int | None = None
        self._api = api

    @property
    def is_known(self) -> bool:
        """Whether the run has been seen."""
        return self.run is not None

    @property
    def is_over(self) -> bool:
        """Whether the run is no longer active: ended, or stopped in `action_required`."""
        return self.run is not None and not self.run.is_active

    @property
    def news(self) -> int:
        """How many messages are known."""
        return len(self.trace)

    async def look(self) -> None:
        """Read the status."""
        self._take_run(await self._api.retrieve_run(self.run_id))

    async def read_stream(self) -> None:
        """Read one connection: it replays the run's messages from the start."""
        replay = Replay(self.trace)
        async with self._api.run_events(self.run_id) as events:
            with anyio.CancelScope() as hearing:
                async for event in events:
                    self.heard()
                    self._take(event, replay)
                    if isinstance(event, ErrorEvent):
                        await self.look_if_possible()  # what became of the run is not said
                    if self.is_over:
                        # The state of an ended run comes first, its messages after it: hear them out, briefly.
                        hearing.deadline = min(hearing.deadline, anyio.current_time() + LAST_WORDS_S)

    def _take(self, event: Event, replay: Replay) -> None:
        match event:
            case RunStateEvent(run=run):
                self._take_run(run)
            case ProgressMessageEvent():
                message = Message(event.type, event.timestamp, event.message[:MAX_MESSAGE_CHARS])
                if replay.add(message):
                    self._take_as_started()
                    self.tell()
            case ProgressStatsEvent(source_stats=sources):
                self.meter = _newest(event.progress_meter, self.meter)
                self.sources_read = _newest(sources.num_sources_read, self.sources_read)
                self.sources_considered = _newest(sources.num_sources_considered, self.sources_considered)
                self.tell()
            case _:
                pass

    def _take_run(self, run: TaskRun) -> None:
        if not self.is_over:  # a terminal state stays: an old replica may still answer `running`
            self.run = run
            self.tell()

    def _take_as_started(self) -> None:
        """A queued run that reports steps has started; the stream states it again only at its end."""
        if self.run is not None and self.run.status == "queued":
            self.run = self.run.model_copy(update={"status": "running"})


def _newest(value: _Number | None, known: _Number | None) -> _Number | None:
    """A number of the API, which leaves one out now and then."""
    return known if value is None else value
