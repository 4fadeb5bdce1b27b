"""The runs of a caller as tasks: whatever is asked of a task is read from the API, with the caller's own key.

So any process answers for any task, and a task of another key is unknown.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import anyio
from mcp.shared.exceptions import MCPError
from mcp.types import INTERNAL_ERROR, CallToolResult

from parallel_mcp.api.models import TaskRun
from parallel_mcp.errors import InvalidArguments, NotFound, RateLimited, ResearchError, UpstreamUnavailable
from parallel_mcp.extensions.tasks import Task, UnknownTask
from parallel_mcp.render.errors import error_text
from parallel_mcp.tasks.handles import run_handle
from parallel_mcp.tasks.watching import RunSnapshot
from parallel_mcp.tools.call import App, Call, call_of
from parallel_mcp.tools.reply import failed
from parallel_mcp.tools.results import GetResultArguments, ResultAnswer, result_of
from parallel_mcp.tools.run_task import finished_reply
from parallel_mcp.tools.status import next_for
from parallel_mcp.tools.task_states import ended, poll_interval_s, progress_message, working

if TYPE_CHECKING:
    from mcp.server.context import ServerRequestContext

    from parallel_mcp.tools.spec_tools import SpecTools

LOOK_S = 0.5  # for the first news of a stream, which may have to be opened


class RunsAsTasks:
    """See `extensions.tasks.TaskSource`. A run has no cancel and asks nothing, so those are only acknowledged."""

    def __init__(self, specs: SpecTools | None) -> None:
        self._specs = specs

    async def task(self, task_id: str, ctx: ServerRequestContext[App]) -> Task:
        """The run as it stands; one that has ended with what the tool would have returned."""
        call = call_of(ctx)
        run = await _retrieved(task_id, call)
        if not run.is_active:
            return await self._inactive(run, call)
        snapshot = await _seen_at_once(run, call)
        return await self._told(snapshot, call) if snapshot else working(run, run.status)

    async def update(self, task_id: str, responses: Mapping[str, Any], ctx: ServerRequestContext[App]) -> None:
        """Nothing asks for an answer."""
        await _retrieved(task_id, call_of(ctx))

    async def cancel(self, task_id: str, ctx: ServerRequestContext[App]) -> None:
        """The run goes on and is billed: the API has no cancel for runs."""
        await _retrieved(task_id, call_of(ctx))

    async def changes(self, task_id: str, ctx: ServerRequestContext[App]) -> AsyncGenerator[Task]:
        """The run as it stands, and whatever is new of it: the caller may be told less."""
        call = call_of(ctx)
        run = await _retrieved(task_id, call)
        async with call.watching_run(run.run_id, "") as snapshots:
            async for snapshot in snapshots:
                run = snapshot.run
                if run.is_active:
                    yield working(run, progress_message(snapshot))
        async with aclosing(self._end(run, call)) as last:
            async for task in last:
                yield task

    async def _end(self, run: TaskRun, call: Call) -> AsyncGenerator[Task]:
        """The end of a run, again until its result could be read."""
        while True:
            task = await self._inactive(run, call)
            yield task
            if task.has_ended or not run.is_final:
                return
            await anyio.sleep(poll_interval_s(run))

    async def _told(self, snapshot: RunSnapshot, call: Call) -> Task:
        if snapshot.run.is_active:
            return working(snapshot.run, progress_message(snapshot))
        return await self._inactive(snapshot.run, call)

    async def _inactive(self, run: TaskRun, call: Call) -> Task:
        await call.note(run)
        if not run.is_final:
            return working(run, next_for(run))
        if run.status == "cancelled":
            return ended(run, None)
        try:
            answer = await result_of(GetResultArguments(id=run.run_id), call)
        except (UpstreamUnavailable, RateLimited) as error:
            return working(run, f"The run is {run.status}, but its result could not be read: {error}.")
        except ResearchError as error:
            return ended(run, failed(error))
        if not answer.structured.is_final:
            return working(run, answer.text)
        return ended(run, self._reply(run, answer))

    def _reply(self, run: TaskRun, answer: ResultAnswer) -> CallToolResult:
        """What the tool that started the run would have returned."""
        spec_reply = self._specs.finished_reply(run, answer) if self._specs else None
        return spec_reply or finished_reply(answer)


async def _retrieved(task_id: str, call: Call) -> TaskRun:
    try:
        return await call.api.retrieve_run(run_handle(task_id))
    except (InvalidArguments, NotFound):
        raise UnknownTask from None
    except ResearchError as error:
        raise MCPError(INTERNAL_ERROR, error_text(error)) from error


async def _seen_at_once(run: TaskRun, call: Call) -> RunSnapshot | None:
    """What the stream of a run tells at once: how far it is. It stays open for the next look."""
    seen: RunSnapshot | None = None
    with anyio.move_on_after(LOOK_S):
        async with call.watching_run(run.run_id, "") as snapshots:
            async for seen in snapshots:
                if seen.new_messages or seen.percent is not None or not seen.run.is_active:
                    break
    return seen
