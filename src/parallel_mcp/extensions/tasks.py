"""The Tasks extension (SEP-2663, `io.modelcontextprotocol/tasks`): a call answered with a task, which the client polls.

Only clients that declare the extension see any of it, each in the very request. What the tasks are, and where their
state is kept, is the matter of a `TaskSource`; nothing is kept here.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from mcp.server.extension import Extension, MethodBinding
from mcp.server.mcpserver.server import require_client_extension
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import decode_header_value
from mcp.types import HEADER_MISMATCH, INVALID_PARAMS, CallToolResult, RequestParams
from pydantic import ConfigDict, Field, InstanceOf

if TYPE_CHECKING:
    from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
    from mcp.types import CallToolRequestParams, ClientCapabilities, ErrorData

TASKS = "io.modelcontextprotocol/tasks"
REVISIONS = frozenset({"2026-07-28"})
"""The revisions of MCP that have extensions; a client of another one never meets a task."""

TaskStatus = Literal["working", "input_required", "completed", "failed", "cancelled"]


@dataclass(frozen=True)
class Task:
    """A task as it stands. Times are ISO 8601; `result` comes with `completed`, `error` with `failed`.

    `failed` is for errors of the protocol only: a tool that failed has `completed`, with an error as its result.
    """

    task_id: str
    status: TaskStatus
    created_at: str
    last_updated_at: str
    poll_interval_ms: int
    status_message: str = ""
    ttl_ms: int | None = None
    result: CallToolResult | None = None
    error: ErrorData | None = None
    input_requests: Mapping[str, Any] | None = None

    @property
    def has_ended(self) -> bool:
        """Whether it can no longer change."""
        return self.status in ("completed", "failed", "cancelled")

    def handle(self) -> dict[str, Any]:
        """Its state without its outcome, as in the answer that creates it."""
        message = {"statusMessage": self.status_message} if self.status_message else {}
        return {
            "taskId": self.task_id,
            "status": self.status,
            **message,
            "createdAt": self.created_at,
            "lastUpdatedAt": self.last_updated_at,
            "ttlMs": self.ttl_ms,
            "pollIntervalMs": self.poll_interval_ms,
        }

    def detailed(self) -> dict[str, Any]:
        """Its state with what it ended with, or asks for."""
        outcome: dict[str, Any] = {}
        if self.result is not None:
            outcome["result"] = self.result.model_dump(mode="json", by_alias=True, exclude_none=True)
        if self.error is not None:
            outcome["error"] = self.error.model_dump(mode="json", by_alias=True, exclude_none=True)
        if self.input_requests is not None:
            outcome["inputRequests"] = dict(self.input_requests)
        return self.handle() | outcome


class UnknownTask(Exception):
    """There is no such task, or not for this caller."""


class TaskSource(Protocol):
    """Whose tasks they are. Each method authorises the caller by the request it is given."""

    async def task(self, task_id: str, ctx: ServerRequestContext[Any, Any]) -> Task:
        """The task as it stands.

        Raises:
            UnknownTask: There is none.
        """
        ...

    async def update(self, task_id: str, responses: Mapping[str, Any], ctx: ServerRequestContext[Any, Any]) -> None:
        """Take the client's answers to what the task asks for; those that nothing asks for are ignored.

        Raises:
            UnknownTask: There is none.
        """
        ...

    async def cancel(self, task_id: str, ctx: ServerRequestContext[Any, Any]) -> None:
        """Take note that the client wants no more of it.

        Raises:
            UnknownTask: There is none.
        """
        ...

    def changes(self, task_id: str, ctx: ServerRequestContext[Any, Any]) -> AsyncGenerator[Task]:
        """The task as it stands, and again at each change until it has ended.

        Iterating raises `UnknownTask` if there is none.
        """
        ...


class TaskStarted(CallToolResult):
    """What a tool returns in place of a result, to a client that `takes_tasks`: the task that will have it."""

    model_config = ConfigDict(defer_build=True)

    task: InstanceOf[Task] = Field(exclude=True)


def takes_tasks(revision: str | None, capabilities: ClientCapabilities | None) -> bool:
    """Whether a request of this revision, with these capabilities, may be answered with a task."""
    return revision in REVISIONS and TASKS in ((capabilities and capabilities.extensions) or {})


class TaskParams(RequestParams):
    """Parameters of `tasks/get` and `tasks/cancel`."""

    model_config = ConfigDict(defer_build=True)

    task_id: str = Field(min_length=1, max_length=512)


class UpdateParams(TaskParams):
    """Parameters of `tasks/update`."""

    input_responses: dict[str, Any]


class TasksExtension(Extension):
    """Serves the tasks of a source, and turns `TaskStarted` into the answer that creates a task."""

    identifier = TASKS

    def __init__(self, source: TaskSource) -> None:
        self.source = source

    def methods(self) -> Sequence[MethodBinding]:
        """`tasks/result` and `tasks/list` were dropped from the extension, and are unknown methods."""
        return [
            MethodBinding("tasks/get", TaskParams, self._get, REVISIONS),
            MethodBinding("tasks/update", UpdateParams, self._update, REVISIONS),
            MethodBinding("tasks/cancel", TaskParams, self._cancel, REVISIONS),
        ]

    async def intercept_tool_call(
        self, params: CallToolRequestParams, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """Answer with the task that a tool has started, if it has."""
        result = await call_next(ctx)
        return {"resultType": "task", **result.task.handle()} if isinstance(result, TaskStarted) else result

    async def _get(self, ctx: ServerRequestContext[Any, Any], params: TaskParams) -> HandlerResult:
        with _admitted(ctx, params):
            return (await self.source.task(params.task_id, ctx)).detailed()

    async def _update(self, ctx: ServerRequestContext[Any, Any], params: UpdateParams) -> HandlerResult:
        with _admitted(ctx, params):
            await self.source.update(params.task_id, params.input_responses, ctx)
        return {}

    async def _cancel(self, ctx: ServerRequestContext[Any, Any], params: TaskParams) -> HandlerResult:
        with _admitted(ctx, params):
            await self.source.cancel(params.task_id, ctx)
        return {}


@contextmanager
def _admitted(ctx: ServerRequestContext[Any, Any], params: TaskParams) -> Generator[None]:
    """Refuse a client that did not declare the extension, an HTTP request whose header names another task (the SDK
    compares `Mcp-Name` only for methods of its own), and tasks that are unknown.
    """
    require_client_extension(ctx, TASKS)
    if ctx.request is not None and decode_header_value(ctx.request.headers.get("mcp-name")) != params.task_id:
        raise MCPError(HEADER_MISMATCH, "The header Mcp-Name does not match `taskId` of the body")
    try:
        yield
    except UnknownTask:
        raise MCPError(INVALID_PARAMS, "Task not found") from None
