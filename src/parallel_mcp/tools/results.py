"""The result of a run: reading it, waiting for it, or saying how the run stands."""

from __future__ import annotations

import anyio

from parallel_mcp.api.models import TaskRun, TaskRunResult
from parallel_mcp.errors import NotFound, RunFailed, RunStillActive
from parallel_mcp.tasks.handles import platform_link
from parallel_mcp.tools.call import Call
from parallel_mcp.tools.result_pages import GetResultArguments, GetResultOutput, ResultAnswer, page_of_result
from parallel_mcp.tools.status import elapsed_s, next_for
from parallel_mcp.tools.watching import LAST_LOOK_S, watch_run

RESULT_WITHIN_S = 1  # upstream
RESULT_OF_ENDED_WITHIN_S = 10  # the machine that answers may hear of the end a little later than we did


async def result_within(
    wait_s: float, request: GetResultArguments, call: Call, *, first_message: str = "starting"
) -> ResultAnswer:
    """The result of a run if it can be had in that time, else how the run stands.

    Raises:
        ResearchError: As `result_of`; or the run cannot be watched.
    """
    deadline = anyio.current_time() + wait_s
    watched = await watch_run(call, request.id, wait_s=wait_s, first_message=first_message)
    if watched.last.run.is_active:
        return not_ready(watched.last.run, cursor=watched.last.cursor)
    within_s = RESULT_OF_ENDED_WITHIN_S if watched.last.run.is_final else RESULT_WITHIN_S  # else it waits for the user
    with anyio.CancelScope(deadline=deadline + LAST_LOOK_S):
        return await result_of(request, call, within_s=within_s)
    return not_ready(watched.last.run)


async def result_of(request: GetResultArguments, call: Call, *, within_s: int = RESULT_WITHIN_S) -> ResultAnswer:
    """The page of the result that is asked for, or how the run stands if there is none by then.

    Raises:
        RunFailed: The run failed or was cancelled.
        NotFound: There is no such run.
        InvalidArguments: The arguments do not fit the result.
    """
    found = await read_result(request.id, call, within_s=within_s)
    if not isinstance(found, TaskRunResult):
        return not_ready(found)
    return await anyio.to_thread.run_sync(page_of_result, request, found)  # of 32 MiB it takes seconds


async def read_result(run_id: str, call: Call, *, within_s: int = RESULT_WITHIN_S) -> TaskRunResult | TaskRun:
    """The result of a run, or the run as it stands if it has none by then.

    Raises:
        RunFailed: The run failed or was cancelled.
        NotFound: There is no such run.
    """
    try:
        result = await call.api.run_result(run_id, timeout_s=within_s)
    except RunStillActive:
        return await call.run_as_it_stands(run_id)
    except NotFound:
        return await _without_result(run_id, call)
    await call.note(result.run)
    return result


async def _without_result(run_id: str, call: Call) -> TaskRun:
    """The result endpoint answers 404 for failed as well as for unknown runs: the status tells them apart."""
    run = await call.run_as_it_stands(run_id)
    await call.note(run)
    if run.status in ("failed", "cancelled"):
        error = run.error
        raise RunFailed(
            f"The run {run_id} {'failed' if run.status == 'failed' else 'was cancelled'}; there is no result",
            quote=error.message if error else "",
            ref_id=error.ref_id if error else "",
        )
    return run


def not_ready(run: TaskRun, *, cursor: str = "") -> ResultAnswer:
    """How a run stands that has no result, and what to call next."""
    structured = GetResultOutput(
        id=run.run_id,
        status=run.status,
        is_final=run.is_final,
        processor=run.processor,
        link=platform_link(run.run_id),
        next=next_for(run, cursor=cursor),
    )
    state = "is not ready" if run.is_active else "is not there"
    if run.status == "completed":
        state = "could not be read in time"
    age_s = elapsed_s(run)
    since = f" for {age_s} s" if run.is_active and age_s is not None else ""
    text = f"The result of {run.run_id} {state}: the run is {run.status}{since}.\nNext: {structured.next}"
    return ResultAnswer(text, structured)
