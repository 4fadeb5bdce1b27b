"""The runs of a caller as tasks: whatever is asked of a task is read from the API, with the caller's own key.

So any process answers for any task, and a task of another key is unknown.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
from mcp.shared.exceptions import MCPError
from mcp.types import INTERNAL_ERROR, CallToolResult

from parallel_mcp.api.models import TaskRun, TaskRunResult
from parallel_mcp.errors import (
    InvalidArguments,
    NotFound,
    RateLimited,
    ResearchError,
    RunFailed,
    UpstreamError,
    UpstreamUnavailable,
    UpstreamUnreadable,
)
from parallel_mcp.extensions.tasks import Task, UnknownTask
from parallel_mcp.render.errors import error_text
from parallel_mcp.tasks.handles import run_handle
from parallel_mcp.tasks.watching import RunSnapshot
from parallel_mcp.tools.call import App, Call, call_of
from parallel_mcp.tools.reply import failed, next_call
from parallel_mcp.tools.result_pages import GetResultArguments, page_of_result
from parallel_mcp.tools.results import not_ready, read_result
from parallel_mcp.tools.run_task import finished_reply
from parallel_mcp.tools.status import next_for, seconds_between
from parallel_mcp.tools.task_states import ended, poll_interval_s, progress_message, unread, working

if TYPE_CHECKING:
    from mcp.server.context import ServerRequestContext

    from parallel_mcp.tools.spec_tools import SpecTools

LOOK_S = 0.5  # for the first news of a stream, which may have to be opened
REPLAY_PAUSE_S = 0.1  # after which what has happened so far is taken to have been told
RESULT_MAY_LAG_S = 120  # behind the status, which may be told by another machine upstream

_PASSING = (UpstreamUnavailable, UpstreamUnreadable, RateLimited)


class RunsAsTasks:
    """See `extensions.tasks.TaskSource`. A run has no cancel and asks nothing, so those are only acknowledged."""

    def __init__(self, specs: SpecTools | None) -> None:
        self._specs = specs

    async def task(self, task_id: str, ctx: ServerRequestContext[App]) -> Task:
        """The run as it stands; one that has ended with what the tool would have returned."""
        call = call_of(ctx)
        try:
            run = await _known_run(task_id, call)
        except _PASSING as error:  # clients take an error for the end of the call, and the run goes on
            return unread(task_id, error)
        except ResearchError as error:
            raise _refusal(task_id, error) from error
        if not run.is_active:
            return await self._inactive(run, call)
        snapshot = await _seen_at_once(run, call)
        return await self._told(snapshot, call) if snapshot else working(run, run.status)

    async def update(self, task_id: str, responses: Mapping[str, Any], ctx: ServerRequestContext[App]) -> None:
        """Nothing asks for an answer."""
        await _checked(task_id, call_of(ctx))

    async def cancel(self, task_id: str, ctx: ServerRequestContext[App]) -> None:
        """The run goes on and is billed: the API has no cancel for runs."""
        await _checked(task_id, call_of(ctx))

    async def changes(self, task_id: str, ctx: ServerRequestContext[App]) -> AsyncGenerator[Task]:
        """The run as it stands, and whatever is new of it: the caller may be told less."""
        call = call_of(ctx)
        run = await _known_run(task_id, call)
        with suppress(ResearchError):  # then the status alone is asked for
            async with call.watching_run(run.run_id, "") as snapshots:
                async for snapshot in snapshots:
                    run = snapshot.run
                    if run.is_active:
                        yield working(run, progress_message(snapshot))
        async with aclosing(self._polled(run, call)) as last:
            async for task in last:
                yield task

    async def _polled(self, run: TaskRun, call: Call) -> AsyncGenerator[Task]:
        """A run that cannot be watched, or waits for the user, until it is at its end and that could be read.

        Raises:
            ResearchError: It can no longer be read at all.
        """
        while True:
            task = working(run, run.status) if run.is_active else await self._inactive(run, call)
            yield task
            if task.has_ended:
                return
            await anyio.sleep(poll_interval_s(run))
            with suppress(*_PASSING):
                run = await call.run_as_it_stands(run.run_id)

    async def _told(self, snapshot: RunSnapshot, call: Call) -> Task:
        if snapshot.run.is_active:
            return working(snapshot.run, progress_message(snapshot))
        return await self._inactive(snapshot.run, call)

    async def _inactive(self, run: TaskRun, call: Call) -> Task:
        await call.note(run)
        if run.status == "action_required":
            return working(run, next_for(run))
        if run.status == "cancelled":
            return ended(run, None)
        try:
            result = await _result(run, call)
            return ended(run, await anyio.to_thread.run_sync(self._reply, run, result))  # of 32 MiB it takes seconds
        except RunFailed as error:
            return ended(run, failed(error))
        except UpstreamError as error:  # of the reading, not of the run: a task that has ended is not asked about again
            if isinstance(error, UpstreamUnavailable | RateLimited) or _has_just_ended(run):
                return working(run, f"The run is {run.status}, but its result could not be read: {error}.")
            return ended(run, failed(error) if run.is_final else finished_reply(not_ready(run)))

    def _reply(self, run: TaskRun, result: TaskRunResult) -> CallToolResult:
        """What the tool that started the run would have returned."""
        answer = page_of_result(GetResultArguments(id=run.run_id), result)
        spec_reply = self._specs.finished_reply(run, answer) if self._specs else None
        return spec_reply or finished_reply(answer)


async def _checked(task_id: str, call: Call) -> None:
    """Make sure that there is such a run, and that it is the caller's."""
    try:
        await _known_run(task_id, call)
    except ResearchError as error:
        raise _refusal(task_id, error) from error


async def _known_run(task_id: str, call: Call) -> TaskRun:
    """The run of a task.

    Raises:
        UnknownTask: There is none, or it is not the caller's.
        ResearchError: It could not be read.
    """
    try:
        return await call.run_as_it_stands(run_handle(task_id))
    except (InvalidArguments, NotFound):
        raise UnknownTask from None


def _refusal(task_id: str, error: ResearchError) -> MCPError:
    """What is told of a run that could not be read. The advice of the error itself is for calls of tools."""
    look = next_call("get_result", id=task_id)
    advice = (
        f"The run {task_id} is not affected. Ask for this task again, or call {look}; do not call the tool again, "
        "which may buy a second run."
    )
    return MCPError(INTERNAL_ERROR, error_text(error, next_step=advice))


async def _result(run: TaskRun, call: Call) -> TaskRunResult:
    """The result of a run that has ended.

    Raises:
        RunFailed: It has none.
        UpstreamError: It could not be read, or is not there yet.
    """
    found = await read_result(run.run_id, call)
    if isinstance(found, TaskRun):
        raise UpstreamUnreadable(f"The API says that the run is {found.status}, and gives no result")
    return found


def _has_just_ended(run: TaskRun) -> bool:
    age_s = seconds_between(run.modified_at, None)
    return age_s is not None and age_s < RESULT_MAY_LAG_S


async def _seen_at_once(run: TaskRun, call: Call) -> RunSnapshot | None:
    """What the stream of a run tells at once: how far it is. It stays open for the next look."""
    seen: RunSnapshot | None = None
    until = anyio.current_time() + LOOK_S
    with suppress(ResearchError):  # the status is known: nothing more is needed
        async with call.watching_run(run.run_id, "") as snapshots:
            while (newer := await _next_by(until, snapshots)) is not None:
                seen = newer
                until = min(until, anyio.current_time() + REPLAY_PAUSE_S)
    return seen


async def _next_by(deadline: float, snapshots: AsyncGenerator[RunSnapshot]) -> RunSnapshot | None:
    with anyio.CancelScope(deadline=deadline):
        return await anext(snapshots, None)
    return None
