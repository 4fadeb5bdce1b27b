"""What a client can be told of: topics, which can be followed, and the news of them."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import anyio
from mcp.shared.exceptions import MCPError
from mcp.types import INTERNAL_ERROR, Notification

from parallel_mcp.errors import ResearchError, UpstreamUnavailable

if TYPE_CHECKING:
    from mcp.server.session import ServerSession
    from mcp.types import ServerNotification

    from parallel_mcp.listening.filters import Asked
    from parallel_mcp.listening.outbox import Outbox
    from parallel_mcp.tools.call import Call

HONOURED_WITHIN_S = 5.0
MAX_TOPICS = 100  # of one client

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class News:
    """A notification, without `_meta`. It comes no sooner than `every_s` seconds after the last one of its topic."""

    method: str
    params: dict[str, Any] = field(default_factory=dict[str, Any])
    every_s: float = 0.0


Follow = Callable[[], AbstractAsyncContextManager[AsyncGenerator[News]]]


@dataclass(frozen=True, eq=False)
class Topic:
    """One thing that a client asks to be told of.

    Attributes:
        kind: Its field in the filter of `subscriptions/listen`.
        item: Which one of the list in that field; empty if the field is a flag.
        follow: Entering it makes sure that there is such a thing and that this caller may know of it (`ResearchError`
            or `MCPError` if not); it gives the news, each standing for those before it.
    """

    kind: str
    item: str
    follow: Follow


Source = Callable[["Asked", "Call"], Iterable[Topic]]
"""The topics of one kind that a client asks for. May raise `MCPError`, which refuses the whole request."""


Refusal = ResearchError | MCPError


@asynccontextmanager
async def following(
    topics: Sequence[Topic], outbox: Outbox, deciding: anyio.CancelScope
) -> AsyncGenerator[Mapping[Topic, Refusal]]:
    """Follow topics while the block lasts, and put their news into the outbox; gives those that are not followed.

    These are the ones that cannot be read within five seconds, or before `deciding` is cancelled: the client waits
    meanwhile, and is told so. The outbox is closed once none of them can have news any more, which is at once if none
    is followed.
    """
    follower = _Follower(topics, outbox)
    async with anyio.create_task_group() as tasks:
        for topic in topics:
            tasks.start_soon(follower.follow, topic)
        yield await follower.refusals(deciding)
        tasks.cancel_scope.cancel()


async def send(session: ServerSession, news: News, request_id: str | int | None = None) -> None:
    """Send news on the stream of a request, else on the connection."""
    message = _Message(method=news.method, params=news.params)
    await session.send_notification(cast("ServerNotification", message), related_request_id=request_id)


class _Message(Notification[dict[str, Any], str]):
    """A notification of any method, as it goes over the wire."""


class _Follower:
    """The topics of one client, while they are followed."""

    def __init__(self, topics: Sequence[Topic], outbox: Outbox) -> None:
        self._outbox = outbox
        self._undecided = set(topics)
        self._refusals: dict[Topic, Refusal] = {}
        self._going_on: set[Topic] = set()
        self._decided = anyio.Event()
        if not topics:
            self._decided.set()

    async def refusals(self, deciding: anyio.CancelScope) -> Mapping[Topic, Refusal]:
        """Those that are not followed, as soon as that is known of all, or the time for it is over."""
        deciding.deadline = anyio.current_time() + HONOURED_WITHIN_S
        with deciding:
            await self._decided.wait()
        for topic in list(self._undecided):
            self._refuse(topic, UpstreamUnavailable("It could not be read in time"))
        self._close_if_nothing_goes_on()
        return self._refusals

    async def follow(self, topic: Topic) -> None:
        """Put the news of one into the outbox until there will be no more; whatever fails, the others go on."""
        try:
            async with topic.follow() as news, aclosing(news):
                if topic in self._undecided:
                    self._going_on.add(topic)
                    self._decide(topic)
                    async for one in news:
                        self._outbox.put(topic, one)
        except (ResearchError, MCPError) as error:
            logger.info("%s is not followed: %s", topic.kind, error)
            self._refuse(topic, error)
        except Exception:  # a fault of ours, in a task of its own
            logger.exception("A topic cannot be followed because of a fault in this server")
            self._refuse(topic, MCPError(INTERNAL_ERROR, "It cannot be followed because of a fault in this server"))
        self._going_on.discard(topic)
        self._close_if_nothing_goes_on()

    def _refuse(self, topic: Topic, error: Refusal) -> None:
        if topic in self._undecided:
            self._refusals[topic] = error
            self._decide(topic)

    def _decide(self, topic: Topic) -> None:
        self._undecided.discard(topic)
        if not self._undecided:
            self._decided.set()

    def _close_if_nothing_goes_on(self) -> None:
        if not self._undecided and not self._going_on:
            self._outbox.close()
