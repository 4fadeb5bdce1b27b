"""Tasks of every kind for the conformance suite: slow ones, failing ones, and some that ask.

Nothing runs: a task ends when its time has come, or when everything it asks has been answered.
"""

import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from typing import Any

import anyio
from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver.server import require_client_extension
from mcp.server.mcpserver.tools import Tool
from mcp.types import INTERNAL_ERROR, CallToolResult, ErrorData, InputRequest, InputRequiredResult

from parallel_mcp.extensions.tasks import TASKS, Task, TaskStarted, TaskStatus, UnknownTask, takes_tasks
from tests.conformance.fixture_content import Ctx, text
from tests.conformance.fixture_questions import answered, asked

POLL_MS = 100

Outcome = CallToolResult | ErrorData


@dataclass
class _Story:
    """What becomes of one task."""

    outcome: Outcome
    ends_after_s: float = 0
    questions: dict[str, InputRequest] = field(default_factory=dict[str, InputRequest])
    cancelled: bool = False
    created_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat())
    started: float = field(default_factory=time.monotonic)

    @property
    def status(self) -> TaskStatus:
        """Where it stands now."""
        if self.cancelled:
            return "cancelled"
        if self.questions:
            return "input_required"
        if time.monotonic() < self.started + self.ends_after_s:
            return "working"
        return "failed" if isinstance(self.outcome, ErrorData) else "completed"


class FixtureTasks:
    """Source of the tasks (`extensions.tasks.TaskSource`), and the tools that start them."""

    def __init__(self) -> None:
        self._stories: dict[str, _Story] = {}
        self._numbers = count(1)

    async def task(self, task_id: str, ctx: ServerRequestContext[Any, Any]) -> Task:
        """The task as it stands."""
        return self._told(task_id)

    async def update(self, task_id: str, responses: Mapping[str, Any], ctx: ServerRequestContext[Any, Any]) -> None:
        """What was answered is asked no more."""
        questions = self._story(task_id).questions
        for name in questions.keys() & responses.keys():
            del questions[name]

    async def cancel(self, task_id: str, ctx: ServerRequestContext[Any, Any]) -> None:
        """A task that has not ended is given up."""
        story = self._story(task_id)
        story.cancelled = story.cancelled or story.status in ("working", "input_required")

    async def changes(self, task_id: str, ctx: ServerRequestContext[Any, Any]) -> AsyncGenerator[Task]:
        """The task at each change of its status."""
        told = ""
        while told not in ("completed", "failed", "cancelled"):
            task = self._told(task_id)
            if task.status != told:
                told = task.status
                yield task
            await anyio.sleep(POLL_MS / 1000)

    def tools(self) -> list[Tool]:
        """The tools that start tasks, under the names by which the suite calls them."""
        functions: dict[str, Callable[..., Any]] = {
            "slow_compute": self._slow_compute,
            "failing_job": self._failing_job,
            "protocol_error_job": self._protocol_error_job,
            "confirm_delete": self._confirm_delete,
            "multi_input": self._multi_input,
            "test_tool_with_task": self._tool_with_task,
        }
        return [Tool.from_function(function, name) for name, function in functions.items()]

    async def _slow_compute(self, ctx: Ctx, seconds: float = 0, label: str = "") -> CallToolResult:
        """Takes its time: as a task for clients that take tasks, else within the call."""
        result = CallToolResult(content=[text(f"Computed {label}.")])
        if takes_tasks(ctx.protocol_version, ctx.client_capabilities):
            return self._start(_Story(result, seconds))
        await anyio.sleep(seconds)
        return result

    async def _failing_job(self, ctx: Ctx) -> CallToolResult:
        """Fails as a tool fails, and only as a task."""
        require_client_extension(ctx.request_context, TASKS)
        return self._start(_Story(CallToolResult(content=[text("The job failed.")], is_error=True), 1))

    async def _protocol_error_job(self) -> CallToolResult:
        """Fails with an error of the protocol."""
        return self._start(_Story(ErrorData(code=INTERNAL_ERROR, message="The job crashed")))

    async def _confirm_delete(self, filename: str) -> CallToolResult:
        """Asks before it acts."""
        question = asked(f"Delete {filename}?", "confirm", "boolean")
        return self._start(_Story(CallToolResult(content=[text("Deleted.")]), questions={"confirm": question}))

    async def _multi_input(self) -> CallToolResult:
        """Asks two things at once."""
        questions: dict[str, InputRequest] = {
            "name": asked("What is your name?", "name"),
            "confirm": asked("Are you sure?", "confirm", "boolean"),
        }
        return self._start(_Story(CallToolResult(content=[text("Both were answered.")]), questions=questions))

    async def _tool_with_task(self, ctx: Ctx) -> CallToolResult | InputRequiredResult:
        """Asks first, and starts its task with the answer."""
        name = answered(ctx, "user_name", "name")
        if name is None:
            return InputRequiredResult(input_requests={"user_name": asked("What is your name?", "name")})
        return self._start(_Story(CallToolResult(content=[text(f"Done for {name}.")])))

    def _start(self, story: _Story) -> TaskStarted:
        task_id = f"task-{next(self._numbers)}"
        self._stories[task_id] = story
        return TaskStarted(content=[], task=self._told(task_id))

    def _story(self, task_id: str) -> _Story:
        if task_id not in self._stories:
            raise UnknownTask
        return self._stories[task_id]

    def _told(self, task_id: str) -> Task:
        story = self._story(task_id)
        status, outcome = story.status, story.outcome
        asks = {
            name: question.model_dump(mode="json", by_alias=True, exclude_none=True)
            for name, question in story.questions.items()
        }
        return Task(
            task_id,
            status,
            story.created_at,
            story.created_at,
            POLL_MS,
            result=outcome if status == "completed" and isinstance(outcome, CallToolResult) else None,
            error=outcome if status == "failed" and isinstance(outcome, ErrorData) else None,
            input_requests=asks if status == "input_required" else None,
        )
