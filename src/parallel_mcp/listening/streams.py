"""The streams of `subscriptions/listen`: each tells one client what it asked for, until one of the two ends it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import anyio
from mcp.server.subscriptions import SUBSCRIPTION_ID_META_KEY
from mcp.shared.exceptions import MCPError
from mcp.types import INVALID_REQUEST, SubscriptionsListenResult

from parallel_mcp.listening.filters import ACKNOWLEDGED, asked_in, granted
from parallel_mcp.listening.outbox import Outbox
from parallel_mcp.listening.topics import MAX_TOPICS, News, Source, following, send
from parallel_mcp.tools.call import App, call_of

if TYPE_CHECKING:
    from mcp.server.context import ServerRequestContext
    from mcp.types import SubscriptionFilter

MAX_STREAMS = 512  # a stream may last as long as its client; each costs an open connection and a few tasks
MAX_STREAMS_OF_OWNER = 32  # over HTTP, where one caller must leave room for others; a client needs one
LAST_SEND_S = 1.0  # for a client that does not read when the server ends
TOO_MANY_STREAMS = 429  # the numbers below zero belong to JSON-RPC and MCP: the request is right, and may succeed later


class Streams:
    """All streams of a server."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self._open: set[_Stream] = set()

    async def serve(
        self, ctx: ServerRequestContext[App], notifications: SubscriptionFilter
    ) -> SubscriptionsListenResult:
        """Serve one stream, with the key of its own request, until there will be no more to tell, the client leaves or
        the server ends.

        Source: basic/patterns/subscriptions of the 2026-07-28 revision. First the acknowledgement of what is honoured;
        every notification with the id of the request; at an end by the server, and only then, the result.

        Raises:
            MCPError: There are too many streams, or a source refuses the request.
        """
        if ctx.request_id is None:
            raise MCPError(INVALID_REQUEST, "subscriptions/listen needs a request id")
        asked, call = asked_in(notifications), call_of(ctx)
        stream = _Stream(ctx, call.owner if ctx.request is not None else "")
        self._check_room_for(stream)
        topics = [topic for source in self._sources for topic in source(asked, call)][:MAX_TOPICS]
        self._open.add(stream)
        try:
            with stream.scope:
                async with following(topics, stream.outbox, stream.deciding) as refusals:
                    honoured = [topic for topic in topics if topic not in refusals]
                    await stream.send(News(ACKNOWLEDGED, {"notifications": granted(honoured)}))
                    async for news in stream.outbox.deliveries():
                        await stream.send(news)
        finally:
            self._open.discard(stream)
        return SubscriptionsListenResult(_meta=stream.meta)

    def _check_room_for(self, stream: _Stream) -> None:
        if len(self._open) >= MAX_STREAMS:
            raise MCPError(
                TOO_MANY_STREAMS,
                f"This server has {MAX_STREAMS} streams open, which is all it may have: try again later",
            )
        if stream.owner and sum(one.owner == stream.owner for one in self._open) >= MAX_STREAMS_OF_OWNER:
            raise MCPError(
                TOO_MANY_STREAMS,
                f"{MAX_STREAMS_OF_OWNER} streams are open with this key, which is all it may have here: "
                f"end one first, or ask for more on one, which takes up to {MAX_TOPICS} resources",
            )

    def close(self) -> None:
        """Let all streams say what is still unsent, within a second, and end in order."""
        for stream in self._open:
            stream.deciding.cancel()
            stream.outbox.close()
            stream.scope.deadline = anyio.current_time() + LAST_SEND_S


class _Stream:
    """One client that listens. It is waited for at each send: nobody else waits for this stream.

    `owner` is empty on a connection of its own, where there is nobody to leave room for.
    """

    def __init__(self, ctx: ServerRequestContext[App], owner: str) -> None:
        self.owner = owner
        self.outbox = Outbox()
        self.scope = anyio.CancelScope()
        self.deciding = anyio.CancelScope()  # what is honoured
        self.meta: dict[str, Any] = {SUBSCRIPTION_ID_META_KEY: ctx.request_id}
        self._ctx = ctx

    async def send(self, news: News) -> None:
        await send(self._ctx.session, News(news.method, {**news.params, "_meta": self.meta}), self._ctx.request_id)
