"""The streams of `subscriptions/listen`: each tells one client what it asked for, until one of the two ends it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import anyio
from mcp.server.subscriptions import SUBSCRIPTION_ID_META_KEY
from mcp.shared.exceptions import MCPError
from mcp.types import INTERNAL_ERROR, INVALID_REQUEST, Notification, ServerNotification, SubscriptionsListenResult

from parallel_mcp.listening.filters import ACKNOWLEDGED, asked_in, granted
from parallel_mcp.listening.outbox import Outbox
from parallel_mcp.listening.topics import News, Source, following
from parallel_mcp.tools.call import App, call_of

if TYPE_CHECKING:
    from mcp.server.context import ServerRequestContext
    from mcp.server.session import ServerSession
    from mcp.types import SubscriptionFilter

MAX_STREAMS = 512  # a stream lasts as long as its client; each costs an open connection and a few tasks
MAX_TOPICS = 100  # of a stream; what is asked for beyond is not honoured
LAST_SEND_S = 1.0  # for a client that does not read when the server ends


class Message(Notification[dict[str, Any], str]):
    """A notification of any method, as it goes over the wire."""


class Streams:
    """All streams of a server."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self._open: set[_Stream] = set()

    async def serve(
        self, ctx: ServerRequestContext[App], notifications: SubscriptionFilter
    ) -> SubscriptionsListenResult:
        """Serve one stream, with the key of its own request, until the client leaves or the server ends.

        Source: basic/patterns/subscriptions of the 2026-07-28 revision. First the acknowledgement of what is honoured;
        every notification with the id of the request; at an end by the server, and only then, the result.

        Raises:
            MCPError: There are too many streams, or a source refuses the request.
        """
        if ctx.request_id is None:
            raise MCPError(INVALID_REQUEST, "subscriptions/listen needs a request id")
        if len(self._open) >= MAX_STREAMS:
            raise MCPError(INTERNAL_ERROR, f"{MAX_STREAMS} streams are open here, and no more are possible now")
        asked, call = asked_in(notifications), call_of(ctx)
        topics = [topic for source in self._sources for topic in source(asked, call)][:MAX_TOPICS]
        stream = _Stream(ctx)
        self._open.add(stream)
        try:
            with stream.scope:
                async with following(topics, stream.outbox) as honoured:
                    await stream.send(News(ACKNOWLEDGED, {"notifications": granted(honoured)}))
                    async for news in stream.outbox.deliveries():
                        await stream.send(news)
        finally:
            self._open.discard(stream)
        return SubscriptionsListenResult(_meta=stream.meta)

    def close(self) -> None:
        """Let all streams say what is still unsent, within a second, and end in order."""
        for stream in self._open:
            stream.outbox.close()
            stream.scope.deadline = anyio.current_time() + LAST_SEND_S


class _Stream:
    """One client that listens. It is waited for at each send: nobody else waits for this stream."""

    def __init__(self, ctx: ServerRequestContext[App]) -> None:
        self.outbox = Outbox()
        self.scope = anyio.CancelScope()
        self.meta: dict[str, Any] = {SUBSCRIPTION_ID_META_KEY: ctx.request_id}
        self._ctx = ctx

    async def send(self, news: News) -> None:
        await send(self._ctx.session, News(news.method, {**news.params, "_meta": self.meta}), self._ctx.request_id)


async def send(session: ServerSession, news: News, request_id: str | int | None = None) -> None:
    """Send news on the stream of a request, else on the connection."""
    message = Message(method=news.method, params=news.params)
    await session.send_notification(cast("ServerNotification", message), related_request_id=request_id)
