"""The sources there are: what kinds of things a client can be told of."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from parallel_mcp.listening.topics import News, Source, Topic
from parallel_mcp.resources.definition import ResourceDefinition, resource_at

if TYPE_CHECKING:
    from parallel_mcp.listening.filters import Asked
    from parallel_mcp.tasks.changes import Change
    from parallel_mcp.tools.call import Call

TOOLS_CHANGED = "notifications/tools/list_changed"
RESOURCE_UPDATED = "notifications/resources/updated"


def tool_changes(changes: Change) -> Source:
    """Changes of the list of tools."""

    @asynccontextmanager
    async def follow() -> AsyncGenerator[AsyncGenerator[News]]:
        yield _tools_changed(changes.from_now_on())

    def topics(asked: Asked, call: Call) -> Iterable[Topic]:
        return [Topic("toolsListChanged", "", follow)] if asked.tools_list_changed else []

    return topics


def resource_updates(definitions: Sequence[ResourceDefinition]) -> Source:
    """Updates of resources, each by its address."""

    def topics(asked: Asked, call: Call) -> Iterable[Topic]:
        found = (resource_topic(uri, definitions, call) for uri in dict.fromkeys(asked.resource_subscriptions or ()))
        return [topic for topic in found if topic is not None]

    return topics


def resource_topic(uri: str, definitions: Sequence[ResourceDefinition], call: Call) -> Topic | None:
    """The updates of one resource; None if there is none at that address, or none that changes."""
    match resource_at(uri, definitions):
        case ResourceDefinition(follow=follow), variables if follow is not None:
            return Topic("resourceSubscriptions", uri, partial(_updates, uri, partial(follow, call, **variables)))
        case _:
            return None


async def _tools_changed(told: AsyncGenerator[None]) -> AsyncGenerator[News]:
    async for _ in told:
        yield News(TOOLS_CHANGED)


@asynccontextmanager
async def _updates(
    uri: str, follow: Callable[[], AbstractAsyncContextManager[AsyncGenerator[float]]]
) -> AsyncGenerator[AsyncGenerator[News]]:
    async with follow() as changes:
        yield _news_of(uri, changes)


async def _news_of(uri: str, changes: AsyncGenerator[float]) -> AsyncGenerator[News]:
    async with aclosing(changes):
        async for every_s in changes:
            yield News(RESOURCE_UPDATED, {"uri": uri}, every_s)
