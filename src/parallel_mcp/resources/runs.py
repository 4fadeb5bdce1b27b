"""Runs as resources. They are written on a thread: one of 32 MiB takes seconds, in which every watch would halt."""

from anyio import to_thread

from parallel_mcp.api.models import TaskRunResult
from parallel_mcp.errors import NotFound, RunStillActive, UpstreamUnavailable
from parallel_mcp.render.documents import document_of
from parallel_mcp.render.untrusted import marked
from parallel_mcp.resources.definition import FinalText
from parallel_mcp.tasks.handles import platform_link, run_handle
from parallel_mcp.tools.call import Call
from parallel_mcp.tools.results import RESULT_OF_ENDED_WITHIN_S, RESULT_WITHIN_S, read_result


async def run_report(call: Call, run_id: str) -> FinalText:
    """The whole result as Markdown between marks: the pages of `get_result`, joined.

    Raises:
        ResearchError: See `_finished`.
    """
    return FinalText(await to_thread.run_sync(_report_of, await _finished(call, run_id)))


async def run_result(call: Call, run_id: str) -> FinalText:
    """The content of the result as JSON, exact.

    Raises:
        ResearchError: See `_finished`.
    """
    result = await _finished(call, run_id)
    return FinalText(await to_thread.run_sync(document_of, result.output, "json", "none"))


def _report_of(result: TaskRunResult) -> str:
    run = result.run
    document = marked(document_of(result.output, "markdown", "brief"))
    return f"Result of {run.run_id} ({run.processor}, {run.status}).\n{document}\n"


async def _finished(call: Call, run_id: str) -> TaskRunResult:
    """The result of a run.

    Raises:
        InvalidArguments: Not the id of a run.
        RunStillActive: It has none yet.
        NotFound: There is no such run, or it stopped without a result.
        UpstreamUnavailable: It has one, which the machine that answers does not know of yet.
        RunFailed: It failed or was cancelled.
    """
    handle = run_handle(run_id, "run_id")
    has_ended = call.app.feeds.ended_run(call.owner, handle) is not None
    within_s = RESULT_OF_ENDED_WITHIN_S if has_ended else RESULT_WITHIN_S
    found = await read_result(handle, call, within_s=within_s)
    if isinstance(found, TaskRunResult):
        return found
    if found.is_active:
        raise RunStillActive(f"The run {handle} is {found.status}: there is no result yet")
    if found.status == "completed":
        raise UpstreamUnavailable(f"The run {handle} has just completed, and its result could not be read yet")
    raise NotFound(f"The run {handle} is {found.status} and has no result; see {platform_link(handle)}")
