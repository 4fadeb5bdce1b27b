"""Telling clients that the list of tools has changed, in both eras, and promising it only where it works.

Modern clients open a stream of changes (`subscriptions/listen`), over any transport. Legacy clients are told unasked,
on a connection that stays open: stdio. Over HTTP they have none here, since we keep no sessions.
"""

from typing import Any

import anyio
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ToolsListChanged
from mcp.types import (
    DiscoverResult,
    NotificationParams,
    RequestParams,
    SubscriptionsListenRequestParams,
    ToolListChangedNotification,
)

from parallel_mcp.tools.call import App

SEND_LIMIT_S = 1.0
MAX_STREAMS = 256  # a stream lasts as long as its client; each costs an open connection and a task


class Listeners:
    """The clients that want to know; one for all connections of a server."""

    def __init__(self, server: Server[Any]) -> None:
        self._bus = InMemorySubscriptionBus()
        self._streams = ListenHandler(self._bus, max_subscriptions=MAX_STREAMS)
        discover = server.get_request_handler("server/discover")
        assert discover is not None  # every server has it
        self._discover = discover.handler
        server.add_request_handler("subscriptions/listen", SubscriptionsListenRequestParams, self._streams)
        server.add_request_handler("server/discover", RequestParams, self._discovered)
        server.add_notification_handler("notifications/initialized", NotificationParams, self._initialized)

    async def tell_that_tools_changed(self, app: App) -> None:
        """Tell the clients of these resources. One that does not read is not waited for: it sees the list later."""
        await self._bus.publish(ToolsListChanged())
        if app.told_unasked is not None:
            with anyio.move_on_after(SEND_LIMIT_S):
                await app.told_unasked.send_notification(ToolListChangedNotification())

    def close(self) -> None:
        """End all streams in order; their clients know that nothing was lost."""
        self._streams.close()

    async def _initialized(self, ctx: ServerRequestContext[App], params: NotificationParams) -> None:
        """A legacy client is ready. One that came over HTTP has left with this very message."""
        if ctx.request is None:
            ctx.lifespan_context.told_unasked = ctx.session

    async def _discovered(self, ctx: ServerRequestContext[App], params: RequestParams) -> Any:
        """The SDK promises changes of everything once streams are served; only those of tools ever come."""
        result = await self._discover(ctx, params)
        assert isinstance(result, DiscoverResult)
        prompts, resources = result.capabilities.prompts, result.capabilities.resources
        if prompts is not None:
            prompts.list_changed = False
        if resources is not None:
            resources.list_changed = resources.subscribe = False
        return result
