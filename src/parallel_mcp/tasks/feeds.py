"""The feeds of a process: all watchers of the same run and owner share one upstream connection."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio
from anyio.abc import TaskGroup

from parallel_mcp.tasks.feed import RunFeed

if TYPE_CHECKING:
    from parallel_mcp.api.client import ParallelApi

LINGER_S = 10.0  # the next slice of the same wait usually comes before
LINGER_AFTER_CANCEL_S = 1.0

logger = logging.getLogger(__name__)


@dataclass
class _Shared:
    feed: RunFeed
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    watchers: int = 0


@asynccontextmanager
async def sharing_feeds() -> AsyncGenerator[Feeds]:
    """The feeds for as long as the server runs; what still streams when it stops is closed."""
    async with anyio.create_task_group() as streaming:
        yield Feeds(streaming)
        streaming.cancel_scope.cancel()


class Feeds:
    """Opens a feed for the first watcher, and closes it a little after the last one has gone."""

    def __init__(self, tasks: TaskGroup) -> None:
        self._tasks = tasks
        self._shared: dict[tuple[str, str], _Shared] = {}

    @asynccontextmanager
    async def feed_of(self, api: ParallelApi, owner: str, run_id: str) -> AsyncGenerator[RunFeed]:
        """The feed of a run, for as long as the block lasts. A late watcher gets what is known already at once."""
        key = (owner, run_id)
        shared = self._shared.get(key)
        if shared is None or shared.scope.cancel_called:
            shared = self._opened(api, key)
        shared.watchers += 1
        shared.scope.deadline = float("inf")
        linger_s = LINGER_AFTER_CANCEL_S
        try:
            yield shared.feed
            linger_s = LINGER_S
        finally:
            shared.watchers -= 1
            if not shared.watchers:
                shared.scope.deadline = anyio.current_time() + linger_s

    def _opened(self, api: ParallelApi, key: tuple[str, str]) -> _Shared:
        shared = self._shared[key] = _Shared(RunFeed(api, key[1]))
        self._tasks.start_soon(self._keep_current, key, shared)
        return shared

    async def _keep_current(self, key: tuple[str, str], shared: _Shared) -> None:
        """Follow the run until it ends or nobody watches; a feed that has ended is not joined any more."""
        try:
            with shared.scope:
                await shared.feed.keep_current()
        except Exception:  # a fault of ours, in a task of its own: it must not end the server
            logger.exception("Watching a run failed in this server")
        finally:
            if self._shared.get(key) is shared:
                del self._shared[key]
            shared.feed.stop()
