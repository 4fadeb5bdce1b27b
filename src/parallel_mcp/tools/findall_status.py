"""How a FindAll run stands, in a few words."""

from __future__ import annotations

from parallel_mcp.api.findall_models import FindAllRun
from parallel_mcp.tasks.handles import platform_link
from parallel_mcp.tools.call import Call
from parallel_mcp.tools.reply import next_call
from parallel_mcp.tools.status import StatusLine, gone, seconds_between

_REASONS = {
    "low_match_rate": "too few of the candidates match",
    "match_limit_met": "the match limit is reached",
    "candidates_exhausted": "there are no more candidates",
    "user_cancelled": "it was cancelled",
    "error_occurred": "of an error at Parallel",
    "timeout": "it took too long",
    "insufficient_funds": "the account has not enough credit",
}


async def findall_line(findall_id: str, call: Call) -> StatusLine:
    """The status of a FindAll run.

    Raises:
        UpstreamError: It cannot be read.
    """
    run = await call.api.findall.retrieve(findall_id)
    await call.note_findall(run)
    return StatusLine(
        id=run.findall_id,
        kind="findall",
        status=run.status.status,
        is_active=run.is_active,
        processor=run.generator,
        counts=candidate_counts(run),
        elapsed_s=findall_elapsed_s(run),
        link=platform_link(run.findall_id),
        next=next_for_findall(run),
    )


def candidate_counts(run: FindAllRun, match_limit: int | None = None) -> dict[str, int]:
    """What was found so far, and how many matches are wanted at most, if that is known."""
    counts = {"matched": run.matched, "candidates": run.generated}
    return counts | ({"wanted": match_limit} if match_limit else {})


def findall_elapsed_s(run: FindAllRun) -> int | None:
    """Seconds from its creation to its end, or to now."""
    return seconds_between(run.created_at, None if run.is_active else run.modified_at)


def why_ended(run: FindAllRun) -> str:
    """Why a run ended, as far as the API says; empty while it is active."""
    reason = run.status.termination_reason
    if run.is_active or not reason:
        return ""
    return f"It ended because {_REASONS.get(reason, f'of {reason}')}."


def next_for_findall(run: FindAllRun, *, cursor: str = "", timeout_s: float | None = None) -> str:
    """The next call for a FindAll run in its present state."""
    if run.is_active:
        return next_call("watch_progress", id=run.findall_id, timeout_s=timeout_s, cursor=cursor)
    if run.matched or run.status.status == "completed":
        return next_call("get_result", id=run.findall_id)
    if run.is_final:
        return "Nothing more will come of this run; a new one costs again."
    if run.status.status == "not_found":
        return gone("FindAll run", "create_findall")
    return f"The user must look at {platform_link(run.findall_id)}: the run stopped and waits there."
