"""A client that takes tasks for answers, on the SDK's public interface for extensions of clients."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

import anyio
from mcp import Client
from mcp.client import ClaimContext, ClientExtension, ResultClaim
from mcp.types import CallToolResult, Request, RequestParams, Result
from pydantic import SerializeAsAny

from tests.patience import PATIENCE_S

TASKS = "io.modelcontextprotocol/tasks"


class TaskState(Result):
    """What `tasks/get` and the answer that creates a task say."""

    task_id: str
    status: str
    status_message: str = ""
    created_at: str
    last_updated_at: str
    ttl_ms: int | None
    poll_interval_ms: int
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


class TaskCreated(TaskState):
    """The answer that creates a task."""

    result_type: Literal["task"] = "task"


class TaskParams(RequestParams):
    """Parameters of `tasks/get` and `tasks/cancel`."""

    task_id: str


class UpdateParams(TaskParams):
    """Parameters of `tasks/update`."""

    input_responses: dict[str, Any]


class TaskRequest(Request[TaskParams, str]):
    """Any request about a task; over HTTP its id is named in a header as well."""

    method: str
    params: SerializeAsAny[TaskParams]
    name_param = "taskId"


Waits = Callable[[TaskState], Awaitable[None]]


async def for_a_moment(state: TaskState) -> None:
    """Between two looks; the simulated minute takes a second."""
    await anyio.sleep(0.1)


class TakesTasks(ClientExtension):
    """Declares the extension, and turns each task into its result; what was seen on the way is kept in `seen`."""

    identifier = TASKS

    def __init__(self, waits: Waits = for_a_moment) -> None:
        self.seen: list[TaskState] = []
        self._waits = waits

    def claims(self) -> Sequence[ResultClaim[Any]]:
        """A result of the type `task` is ours."""
        return [ResultClaim(result_type="task", model=TaskCreated, resolve=self._polled)]

    async def _polled(self, created: TaskCreated, context: ClaimContext) -> CallToolResult:
        self.seen.append(created)
        with anyio.fail_after(PATIENCE_S):
            while True:
                params = TaskParams(task_id=created.task_id)
                state = await context.session.send_request(TaskRequest(method="tasks/get", params=params), TaskState)
                self.seen.append(state)
                if state.status == "completed":
                    return CallToolResult.model_validate(state.result, by_name=False)
                assert state.status == "working", state
                await self._waits(state)


async def task_created(client: Client, tool: str, arguments: dict[str, Any]) -> TaskCreated:
    """The task that a call is answered with."""
    created = await client.session.call_tool(tool, arguments, allow_claimed=True)
    assert isinstance(created, TaskCreated), created
    return created


async def task_state(client: Client, task_id: str) -> TaskState:
    """The task as it stands."""
    return await client.session.send_request(
        TaskRequest(method="tasks/get", params=TaskParams(task_id=task_id)), TaskState
    )
