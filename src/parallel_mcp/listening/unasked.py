"""Telling a legacy client on a connection that stays open: without its asking each time, or at all.

Over HTTP such a client has no connection here, since we keep no sessions.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anyio
from mcp.shared.exceptions import MCPError
from mcp.types import INVALID_PARAMS

from parallel_mcp.listening.outbox import Outbox
from parallel_mcp.listening.sources import TOOLS_CHANGED
from parallel_mcp.listening.topics import MAX_TOPICS, News, Refusal, Topic, following, send

if TYPE_CHECKING:
    from anyio.abc import TaskGroup
    from mcp.server.session import ServerSession

SEND_LIMIT_S = 1.0

logger = logging.getLogger(__name__)


async def tell_that_tools_changed(session: ServerSession) -> None:
    """Tell it, unless it does not read: then it sees the list when it asks for it."""
    with anyio.move_on_after(SEND_LIMIT_S):
        await send(session, News(TOOLS_CHANGED))


class Subscriptions:
    """The resources whose updates one connection is told; they end with its tasks."""

    def __init__(self, tasks: TaskGroup) -> None:
        self._tasks = tasks
        self._by_uri: dict[str, _Subscription] = {}

    async def add(self, topic: Topic, session: ServerSession) -> None:
        """Tell the client the news of a resource until there will be no more, or it unsubscribes. Twice is once.

        Raises:
            MCPError: There are too many, or this server has a fault.
            ResearchError: The resource cannot be read.
        """
        while (before := self._by_uri.get(topic.item)) is not None:
            if await before.is_followed():
                return
        if len(self._by_uri) >= MAX_TOPICS:
            raise MCPError(INVALID_PARAMS, f"{MAX_TOPICS} resources are subscribed to: unsubscribe from some first")
        subscription = self._by_uri[topic.item] = _Subscription(topic, session)
        self._tasks.start_soon(self._keep, subscription)
        try:
            await subscription.is_followed()
        except anyio.get_cancelled_exc_class():
            subscription.scope.cancel()
            raise

    def remove(self, uri: str) -> None:
        """End a subscription, if there is one."""
        if (subscription := self._by_uri.pop(uri, None)) is not None:
            subscription.scope.cancel()

    async def _keep(self, subscription: _Subscription) -> None:
        try:
            with subscription.scope:
                await subscription.tell()
        except Exception:  # a fault of ours, in a task of its own: it must not end the server
            logger.exception("A subscription failed in this server")
        finally:
            subscription.give_up()
            if self._by_uri.get(subscription.topic.item) is subscription:
                del self._by_uri[subscription.topic.item]


class _Subscription:
    """One resource that is followed for a client."""

    def __init__(self, topic: Topic, session: ServerSession) -> None:
        self.topic = topic
        self.scope = anyio.CancelScope()
        self._decided = anyio.Event()
        self._is_followed = False
        self._refusal: Refusal | None = None
        self._session = session

    async def is_followed(self) -> bool:
        """Whether it is, as soon as that is decided. False if whoever asked for it has left before.

        Raises:
            ResearchError, MCPError: It cannot be followed.
        """
        await self._decided.wait()
        if self._refusal is not None:
            raise self._refusal
        return self._is_followed

    def give_up(self) -> None:
        """Nobody need wait for a decision any more."""
        self._decided.set()

    async def tell(self) -> None:
        """Tell the client, until there will be no more news and all are sent."""
        outbox = Outbox()
        async with following([self.topic], outbox, anyio.CancelScope()) as refusals:
            self._refusal = refusals.get(self.topic)
            self._is_followed = self._refusal is None
            self._decided.set()
            async for one in outbox.deliveries():
                await send(self._session, one)
