"""The feeds of a process: all watchers of the same run or group and owner share one upstream connection."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar, cast
from weakref import WeakValueDictionary

import anyio
from anyio.abc import TaskGroup

from parallel_mcp.tasks.changes import ListChanges
from parallel_mcp.tasks.feed import USUAL_PACE, Feed, Pace
from parallel_mcp.tasks.group_feed import GroupFeed
from parallel_mcp.tasks.run_feed import RunFeed, StartLooks

if TYPE_CHECKING:
    from parallel_mcp.api.client import ParallelApi
    from parallel_mcp.api.models import TaskRun

LINGER_S = 10.0  # the next slice of the same wait usually comes before
LINGER_AFTER_CANCEL_S = 1.0
ENDED_KNOWN_S = 120.0  # for so long another machine of the API may still say that a run goes on
MAX_ENDED = 1_000

logger = logging.getLogger(__name__)

_Feed = TypeVar("_Feed", bound=Feed[Any])
_Key = tuple[str, str]


@dataclass(eq=False)
class _Shared:
    feed: Feed[Any]
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    watchers: int = 0


@asynccontextmanager
async def sharing_feeds(pace: Pace = USUAL_PACE, changes: ListChanges | None = None) -> AsyncGenerator[Feeds]:
    """The feeds for as long as the server runs; what still streams when it stops is closed.

    Changes of state that they see are told to `changes`.
    """
    async with anyio.create_task_group() as streaming:
        yield Feeds(streaming, pace, changes or ListChanges())
        streaming.cancel_scope.cancel()


class Feeds:
    """Opens a feed for the first watcher, and closes it a little after the last one has gone."""

    def __init__(self, tasks: TaskGroup, pace: Pace, changes: ListChanges) -> None:
        self._tasks = tasks
        self._pace = pace
        self._changes = changes
        self._is_attending = False
        self._shared: defaultdict[_Key, list[_Shared]] = defaultdict(list)
        self._ended: dict[_Key, tuple[TaskRun, float]] = {}  # the oldest first, each with its time
        self._start_looks: WeakValueDictionary[str, StartLooks] = WeakValueDictionary()  # by owner

    def of_run(self, api: ParallelApi, owner: str, run_id: str) -> AbstractAsyncContextManager[RunFeed]:
        """The feed of a run, for as long as the block lasts. A late watcher gets what is known already at once."""

        def opened(pace: Pace) -> RunFeed:
            return RunFeed(api, run_id, pace, self._looks_of(owner), self.ended_run(owner, run_id))

        return self.joined((owner, run_id), opened, lambda _: True)

    def of_group(
        self, api: ParallelApi, owner: str, group_id: str, after: str
    ) -> AbstractAsyncContextManager[GroupFeed]:
        """A feed of a group that has everything behind the event `after`; as `of_run`."""

        def goes_back_far_enough(feed: GroupFeed) -> bool:
            return feed.place_after(after) is not None

        return self.joined((owner, group_id), lambda pace: GroupFeed(api, group_id, after, pace), goes_back_far_enough)

    def known_run(self, owner: str, run_id: str) -> RunFeed | None:
        """The feed of a run that is being watched here, if the run is known by now."""
        shared = self._open_one((owner, run_id), lambda feed: feed.is_known)
        return cast("RunFeed", shared.feed) if shared else None

    def ended_run(self, owner: str, run_id: str) -> TaskRun | None:
        """A run that was lately seen here to have ended for good."""
        feed = self.known_run(owner, run_id)
        if feed is not None and feed.run is not None and feed.run.is_final:
            return feed.run
        run, ended_at = self._ended.get((owner, run_id), (None, 0.0))
        return run if anyio.current_time() - ended_at < ENDED_KNOWN_S else None

    @asynccontextmanager
    async def joined(
        self, key: _Key, opened: Callable[[Pace], _Feed], serves: Callable[[_Feed], bool]
    ) -> AsyncGenerator[_Feed]:
        """The feed under a key (owner and handle) that `serves` this watcher, else a new one."""
        shared = self._open_one(key, serves) or self._opened(key, opened(self._pace))
        shared.watchers += 1
        shared.scope.deadline = float("inf")
        linger_s = LINGER_AFTER_CANCEL_S
        try:
            yield cast("_Feed", shared.feed)
            linger_s = LINGER_S
        finally:
            shared.watchers -= 1
            if not shared.watchers:
                shared.scope.deadline = anyio.current_time() + linger_s

    def _looks_of(self, owner: str) -> StartLooks:
        looks = self._start_looks.get(owner)
        if looks is None:
            looks = self._start_looks[owner] = StartLooks()
        return looks

    def _open_one(self, key: _Key, serves: Callable[[_Feed], bool]) -> _Shared | None:
        """A feed that is not being closed and serves this watcher. A handle names a run or a group, never both."""
        for shared in self._shared.get(key, ()):
            if not shared.scope.cancel_called and serves(cast("_Feed", shared.feed)):
                return shared
        return None

    def _opened(self, key: _Key, feed: Feed[Any]) -> _Shared:
        shared = _Shared(feed)
        feed.tell_owner = partial(self._changes.tell, key[0])
        self._shared[key].append(shared)
        self._tasks.start_soon(self._keep_current, key, shared)
        if not self._is_attending:
            self._is_attending = True
            self._tasks.start_soon(self._keep_attending)
        return shared

    async def _keep_current(self, key: _Key, shared: _Shared) -> None:
        """Follow until the end, or until nobody watches; a feed that has ended is not joined any more."""
        try:
            with shared.scope:
                await shared.feed.keep_current()
        except Exception:  # a fault of ours, in a task of its own: it must not end the server
            logger.exception("Watching failed in this server")
        finally:
            self._shared[key].remove(shared)
            if not self._shared[key]:
                del self._shared[key]
            self._note_end(key, shared.feed)
            shared.feed.stop()

    def _note_end(self, key: _Key, feed: Feed[Any]) -> None:
        if isinstance(feed, RunFeed) and feed.run is not None and feed.run.is_final:
            self._ended.pop(key, None)
            self._ended[key] = feed.run, anyio.current_time()
            if len(self._ended) > MAX_ENDED:
                del self._ended[next(iter(self._ended))]

    async def _keep_attending(self) -> None:
        """The one timer of all feeds, for as long as there are any."""
        while self._shared:
            await anyio.sleep(self._pace.tick_s)
            now = anyio.current_time()
            for shared in chain.from_iterable(self._shared.values()):
                if shared.feed.attend_at <= now:
                    self._tasks.start_soon(self._attend, shared.feed)
        self._is_attending = False

    async def _attend(self, feed: Feed[Any]) -> None:
        try:
            await feed.attend()
        except Exception:  # as above
            logger.exception("Looking after a watch failed in this server")
