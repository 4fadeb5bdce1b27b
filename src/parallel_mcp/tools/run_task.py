"""Creating, waiting and reading in one call."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
from mcp.types import CallToolResult
from pydantic import Field

from parallel_mcp.api.models import TaskRun
from parallel_mcp.errors import UpstreamError
from parallel_mcp.tools.call import Call
from parallel_mcp.tools.reply import reply
from parallel_mcp.tools.results import (
    GetResultArguments,
    GetResultOutput,
    ResultAnswer,
    not_ready,
    result_of,
    result_within,
)
from parallel_mcp.tools.task_states import started_task
from parallel_mcp.tools.tasks import Started, TaskRequest, start
from parallel_mcp.tools.waiting import allowed_wait_s
from parallel_mcp.tools.watching import LAST_LOOK_S


class RunTaskArguments(TaskRequest):
    """Arguments of `run_task`."""

    timeout_s: float | None = Field(default=None, ge=0, description="Most seconds to wait; best left out.")


class RunTaskOutput(GetResultOutput):
    """Structured half of `run_task`."""

    price_usd: float | None = Field(default=None, description="What this call cost; 0 if the run existed already.")
    deduplicated: bool | None = Field(
        default=None, description="True: an equal run existed and was returned; nothing was created."
    )
    warnings: list[str] | None = Field(default=None, description="What could be better about output_schema.")


async def run_task(request: RunTaskArguments, call: Call) -> CallToolResult:
    """create_task, watch_progress and get_result in one call.

    Parameters and price as create_task; best with lite, base, core-fast. If it takes too long you get the run_id for
    watch_progress. Repeating a call that timed out finds the same run, free.
    """
    deadline = anyio.current_time() + allowed_wait_s(request.timeout_s, call)
    started = await start(request, call, by=deadline + LAST_LOOK_S)
    if call.takes_tasks and started.run.is_active:
        return started_task(started)
    answer = await answer_by(deadline, started.run, call)
    remarks = [started.remarks] if started.warnings else []
    structured = output_of(started, answer, started.warnings)
    return reply("\n".join([started.headline, *remarks, answer.text]), structured)


def finished_reply(answer: ResultAnswer) -> CallToolResult:
    """The answer about a run that an earlier call has started."""
    return reply(answer.text, finished_output(answer))


def finished_output(answer: ResultAnswer, warnings: Sequence[str] = ()) -> RunTaskOutput:
    """Its structured half, without the price: what that call was charged is not known here any more."""
    return RunTaskOutput(**answer.structured.model_dump(), warnings=list(warnings) or None)


def output_of(started: Started, answer: ResultAnswer, warnings: list[str]) -> RunTaskOutput:
    """The structured half of an answer about a run that a call has started."""
    return RunTaskOutput(
        **answer.structured.model_dump(),
        price_usd=0 if started.deduplicated else started.processor.price_usd,
        deduplicated=started.deduplicated,
        warnings=warnings or None,
    )


async def answer_by(deadline: float, run: TaskRun, call: Call) -> ResultAnswer:
    """The result of a run if it is there by then, else how the run stands; also if it could not be followed.

    Raises:
        RunFailed: The run failed.
    """
    try:
        return await _followed(deadline, run, call)
    except UpstreamError as error:
        answer = not_ready(run)
        return ResultAnswer(f"The run could not be followed: {error}.\n{answer.text}", answer.structured)


async def _followed(deadline: float, run: TaskRun, call: Call) -> ResultAnswer:
    """The result of a run if it is there by then, else how the run stands.

    Raises:
        RunFailed: The run failed.
        UpstreamError: The run could not be followed; it goes on.
    """
    request = GetResultArguments(id=run.run_id)
    if run.is_active:
        wait_s = max(0.0, deadline - anyio.current_time())
        return await result_within(wait_s, request, call, first_message=f"{run.run_id} started")
    return await result_of(request, call)
