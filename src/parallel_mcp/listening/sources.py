"""The sources there are: what kinds of things a client can be told of."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from mcp.server.mcpserver.server import require_client_extension

from parallel_mcp.errors import NotFound
from parallel_mcp.extensions.tasks import TASKS, Task, TaskSource, UnknownTask
from parallel_mcp.listening.topics import News, Source, Topic
from parallel_mcp.resources.definition import ResourceDefinition, resource_at

if TYPE_CHECKING:
    from mcp.server.context import ServerRequestContext

    from parallel_mcp.listening.filters import Asked
    from parallel_mcp.tasks.changes import Change
    from parallel_mcp.tools.call import App, Call

TOOLS_CHANGED = "notifications/tools/list_changed"
RESOURCE_UPDATED = "notifications/resources/updated"
TASK_CHANGED = "notifications/tasks"
TASK_PROGRESS_EVERY_S = 2.0


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
    """The updates of one resource; None if there is none at that address."""
    found = resource_at(uri, definitions)
    if found is None:
        return None
    definition, variables = found
    follow = partial(definition.follow, call, **variables) if definition.follow is not None else _never_changes
    return Topic("resourceSubscriptions", uri, partial(_updates, uri, follow))


def task_updates(tasks: TaskSource) -> Source:
    """The tasks of the Tasks extension, each as it stands and whenever that changes."""

    def topics(asked: Asked, call: Call) -> Iterable[Topic]:
        if not asked.task_ids:
            return []
        ctx = call.ctx.request_context
        require_client_extension(ctx, TASKS)
        return [
            Topic("taskIds", task_id, partial(_task, tasks, task_id, ctx)) for task_id in dict.fromkeys(asked.task_ids)
        ]

    return topics


async def _tools_changed(told: AsyncGenerator[None]) -> AsyncGenerator[News]:
    async for _ in told:
        yield News(TOOLS_CHANGED)


@asynccontextmanager
async def _never_changes() -> AsyncGenerator[AsyncGenerator[float]]:
    yield _nothing()


async def _nothing() -> AsyncGenerator[float]:
    return
    yield


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


@asynccontextmanager
async def _task(
    tasks: TaskSource, task_id: str, ctx: ServerRequestContext[App, Any]
) -> AsyncGenerator[AsyncGenerator[News]]:
    async with aclosing(tasks.changes(task_id, ctx)) as changes:
        try:
            task = await anext(changes)
        except UnknownTask:
            raise NotFound("There is no such task") from None
        yield _task_changed(task, changes)


async def _task_changed(task: Task, changes: AsyncGenerator[Task]) -> AsyncGenerator[News]:
    yield _task_news(task)
    async for changed in changes:
        yield _task_news(changed)


def _task_news(task: Task) -> News:
    return News(TASK_CHANGED, task.detailed(), 0.0 if task.has_ended else TASK_PROGRESS_EVERY_S)
