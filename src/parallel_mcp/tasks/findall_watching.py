"""Watching a FindAll run: its matches are the messages, the API's own event ids the cursors."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from parallel_mcp.api.findall_models import (
    MATCHED,
    Candidate,
    CandidateEvent,
    FindAllEvent,
    FindAllRun,
    FindAllStatusEvent,
    SchemaEvent,
)
from parallel_mcp.errors import UpstreamError
from parallel_mcp.tasks.event_cursor import event_id_in
from parallel_mcp.tasks.feed import Pace
from parallel_mcp.tasks.resumable_feed import ResumableFeed
from parallel_mcp.tasks.trace import KEPT_CHARS, Message
from parallel_mcp.tasks.watching import Snapshot

if TYPE_CHECKING:
    from parallel_mcp.api.client import ParallelApi
    from parallel_mcp.api.findall import FindAllApi
    from parallel_mcp.tasks.feeds import Feeds


@dataclass(frozen=True)
class FindAllSnapshot(Snapshot):
    """Where a FindAll run stands; its messages are the candidates that match."""

    run: FindAllRun
    match_limit: int | None = None

    @property
    def state(self) -> str:
        """The status of the run."""
        return self.run.status.status

    @property
    def is_active(self) -> bool:
        """Whether it goes on by itself."""
        return self.run.is_active

    @property
    def phase(self) -> str:
        """The status, and what was found."""
        most = f" of at most {self.match_limit}" if self.match_limit else ""
        return f"{self.run.status.status}, {self.run.matched}{most} matches among {self.run.generated} candidates"

    @property
    def percent(self) -> float | None:
        """Nobody knows: matches do not come evenly, and most runs end before their limit is reached."""
        return None

    @property
    def is_complete(self) -> bool:
        """Whether it ended with a result; what was found before a run failed or was cancelled is kept."""
        return not self.run.is_active and (self.run.status.status == "completed" or self.run.matched > 0)


class FindAllFeed(ResumableFeed[FindAllEvent, Message]):
    """What is known of a FindAll run, from the event `after` on; it tells the candidates that match.

    Source: GET /v1beta/findall/runs/{findall_id}/events, open while the run is active.
    """

    def __init__(self, api: ParallelApi, findall_id: str, after: str, pace: Pace) -> None:
        super().__init__(after, pace)
        self.findall_id = findall_id
        self.run: FindAllRun | None = None
        self.match_limit: int | None = None
        self._api = api.findall
        self._asked_for_limit = False

    @property
    def is_known(self) -> bool:
        """Whether the state has been seen."""
        return self.run is not None

    @property
    def is_over(self) -> bool:
        """Whether it is no longer active. An extension may start it again."""
        return self.run is not None and not self.run.is_active

    async def look(self) -> None:
        """Read the state; at the first time also the match limit, which the state leaves out."""
        self._take_run(await self._api.retrieve(self.findall_id))
        if not self._asked_for_limit:
            self._asked_for_limit = True
            self._take_limit(await match_limit(self._api, self.findall_id))

    def events_after(self, event_id: str) -> AbstractAsyncContextManager[AsyncGenerator[FindAllEvent]]:
        """The run's events."""
        return self._api.events(self.findall_id, last_event_id=event_id)

    def take(self, event: FindAllEvent) -> None:
        """Take note of states, limits and matches."""
        match event:
            case FindAllStatusEvent(data=run):
                self._take_run(run)
            case SchemaEvent(data=schema):
                self._take_limit(schema.match_limit)
            case CandidateEvent(type=type_name, data=candidate):
                if type_name == MATCHED:
                    sameness = candidate.candidate_id or (candidate.name, candidate.url)
                    self.tell_once(event.event_id, _message(candidate), sameness)
            case _:
                return
        self.resume_after(event.event_id)

    def tells_end(self, event: FindAllEvent) -> bool | None:
        """A state tells the end, unless it is a replayed one, older than the known state of an extended run."""
        if not isinstance(event, FindAllStatusEvent):
            return None
        return self.is_over and not self._is_replayed(event.data)

    def _is_replayed(self, run: FindAllRun) -> bool:
        return self.run is not None and _is_before(run.modified_at, self.run.modified_at)

    def _take_run(self, run: FindAllRun) -> None:
        if self._is_replayed(run):
            return
        if run != self.run:
            self.run = run
            self.tell_news()

    def _take_limit(self, limit: int | None) -> None:
        if limit and limit != self.match_limit:
            self.match_limit = limit
            self.tell_news()


@asynccontextmanager
async def watching_findall(
    feeds: Feeds, api: ParallelApi, owner: str, findall_id: str, cursor: str = ""
) -> AsyncGenerator[AsyncGenerator[FindAllSnapshot]]:
    """Watch a FindAll run until it is no longer active; otherwise as `watching_run`."""
    after = event_id_in(cursor, findall_id) if cursor else ""
    if after is None:
        cursor = ""
    start = after or ""
    async with (
        feeds.joined(
            (owner, findall_id),
            lambda pace: FindAllFeed(api, findall_id, start, pace),
            lambda feed: feed.place_after(start) is not None,
        ) as feed,
        aclosing(_snapshots(feed, start, cursor, fits=after is not None)) as snapshots,
    ):
        yield snapshots


async def match_limit(api: FindAllApi, findall_id: str) -> int | None:
    """The match limit of a run, if it can be read: it is worth knowing, not worth failing for."""
    try:
        return (await api.schema(findall_id)).match_limit
    except UpstreamError:
        return None


async def _snapshots(feed: FindAllFeed, after: str, cursor: str, *, fits: bool) -> AsyncGenerator[FindAllSnapshot]:
    async with aclosing(feed.news(feed.findall_id, after, cursor, fits=fits)) as news:
        async for one in news:
            assert feed.run is not None  # there is no news of what is not known
            yield FindAllSnapshot(
                run=feed.run,
                match_limit=feed.match_limit,
                new_messages=one.told,
                cursor=one.cursor,
                cursor_fits=one.cursor_fits,
            )


def _message(candidate: Candidate) -> Message:
    """All that is kept of a candidate while it is watched; its evidence may be long."""
    return Message("matched", "", f"match: {candidate.name} ({candidate.url})"[:KEPT_CHARS])


def _is_before(one: str, other: str) -> bool:
    """Whether a time is before another; not if one of them is no time."""
    try:
        return datetime.fromisoformat(one) < datetime.fromisoformat(other)
    except (ValueError, TypeError):
        return False
