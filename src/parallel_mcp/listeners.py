"""Who is told of changes, and what is promised: only what is told.

Modern clients listen on a stream (`subscriptions/listen`), over any transport. Legacy clients are told on a connection
that stays open: stdio. Over HTTP they have none here, since we keep no sessions. What telling takes is in `listening`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from mcp.types import (
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    EmptyResult,
    NotificationParams,
    SubscribeRequestParams,
    SubscriptionsListenRequestParams,
    SubscriptionsListenResult,
    UnsubscribeRequestParams,
)

from parallel_mcp.errors import ResearchError
from parallel_mcp.extensions.tasks import TaskSource
from parallel_mcp.resources.definition import ResourceDefinition, resource_error
from parallel_mcp.tasks.changes import Change
from parallel_mcp.tools.call import App, call_of

if TYPE_CHECKING:
    from parallel_mcp.listening.streams import Streams
    from parallel_mcp.listening.topics import Source
    from parallel_mcp.listening.unasked import Subscriptions


STOPPING = 503  # of our own, as `listening.streams.TOO_MANY_STREAMS` is


class Listeners:
    """The clients that want to know; one for all connections of a server."""

    def __init__(
        self,
        server: Server[Any],
        resources: Sequence[ResourceDefinition],
        tasks: TaskSource | None,
        *,
        tools_may_change: bool,
    ) -> None:
        self._resources = resources
        self._tasks = tasks
        self._tools_changed = Change() if tools_may_change else None
        self._streams: Streams | None = None
        self._closed = False
        self._subscriptions: WeakKeyDictionary[App, Subscriptions] = WeakKeyDictionary()
        server.add_request_handler("subscriptions/listen", SubscriptionsListenRequestParams, self._listen)
        server.add_request_handler("resources/subscribe", SubscribeRequestParams, self._subscribe)
        server.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, self._unsubscribe)
        server.add_notification_handler("notifications/initialized", NotificationParams, self._initialized)
        server.middleware.append(self._promise_what_is_told)

    async def tell_that_tools_changed(self, app: App) -> None:
        """Tell the clients of these resources. One that does not read is not waited for: it sees the list later."""
        if self._tools_changed is not None:
            self._tools_changed.tell()
        if app.told_unasked is not None:
            from parallel_mcp.listening.unasked import tell_that_tools_changed

            await tell_that_tools_changed(app.told_unasked)

    def close(self) -> None:
        """End all streams in order, and take no new ones; their clients know that nothing was lost."""
        self._closed = True
        if self._streams is not None:
            self._streams.close()

    # ---- modern clients

    async def _listen(
        self, ctx: ServerRequestContext[App], params: SubscriptionsListenRequestParams
    ) -> SubscriptionsListenResult:
        if self._closed:
            raise MCPError(STOPPING, "This server is stopping: try again, another one may answer")
        if self._streams is None:
            from parallel_mcp.listening.streams import Streams

            self._streams = Streams(self._sources())
        return await self._streams.serve(ctx, params.notifications)

    def _sources(self) -> list[Source]:
        """All that a client can be told of."""
        from parallel_mcp.listening.sources import resource_updates, task_updates, tool_changes

        of_tools = [tool_changes(self._tools_changed)] if self._tools_changed is not None else []
        of_tasks = [task_updates(self._tasks)] if self._tasks is not None else []
        return [*of_tools, resource_updates(self._resources), *of_tasks]

    # ---- legacy clients

    async def _initialized(self, ctx: ServerRequestContext[App], params: NotificationParams) -> None:
        """A legacy client is ready. One that came over HTTP has left with this very message."""
        if ctx.request is None:
            ctx.lifespan_context.told_unasked = ctx.session

    async def _subscribe(self, ctx: ServerRequestContext[App], params: SubscribeRequestParams) -> EmptyResult:
        from parallel_mcp.listening.sources import resource_topic

        subscriptions = self._subscriptions_of(ctx)
        topic = resource_topic(params.uri, self._resources, call_of(ctx))
        if topic is None:
            raise MCPError(INVALID_PARAMS, f"Unknown resource: {params.uri}", {"uri": params.uri})
        try:
            await subscriptions.add(topic, ctx.session)
        except ResearchError as error:
            raise resource_error(error, params.uri) from error
        return EmptyResult()

    async def _unsubscribe(self, ctx: ServerRequestContext[App], params: UnsubscribeRequestParams) -> EmptyResult:
        self._subscriptions_of(ctx).remove(params.uri)
        return EmptyResult()

    def _subscriptions_of(self, ctx: ServerRequestContext[App]) -> Subscriptions:
        """Those of a connection that stays open.

        Raises:
            MCPError: It does not.
        """
        from parallel_mcp.listening.unasked import Subscriptions

        app = ctx.lifespan_context
        if ctx.request is not None or app.background is None:
            raise MCPError(
                METHOD_NOT_FOUND,
                "Over HTTP nothing can be subscribed to before revision 2026-07-28 of the protocol, since this server "
                "keeps no sessions. Use stdio, or a client that opens subscriptions/listen, or read it again",
            )
        if app not in self._subscriptions:
            self._subscriptions[app] = Subscriptions(app.background)
        return self._subscriptions[app]

    # ---- promises

    async def _promise_what_is_told(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """The SDK promises all that could be told; a client that trusts a promise does not look again."""
        result = await call_next(ctx)
        if ctx.method in ("initialize", "server/discover") and isinstance(result, dict):
            promised = cast("dict[str, dict[str, dict[str, bool]]]", result)["capabilities"]
            has_ear = ctx.method == "server/discover" or ctx.request is None
            promised["tools"]["listChanged"] = has_ear and self._tools_changed is not None
            promised["prompts"]["listChanged"] = promised["resources"]["listChanged"] = False
            promised["resources"]["subscribe"] = has_ear and bool(self._resources)
        return result
