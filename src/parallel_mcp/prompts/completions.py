"""Completions: what a client may offer while a person types an argument of a prompt or of a resource address."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from mcp.types import CompleteResult, Completion

from parallel_mcp.errors import LedgerUnavailable, MissingKey
from parallel_mcp.tasks.processors import ProcessorName

if TYPE_CHECKING:
    from parallel_mcp.tools.call import Call

MAX_VALUES = 100  # the protocol's limit
MAX_RECENT = 20


async def completions(argument: str, typed: str, call: Call) -> CompleteResult:
    """The values of an argument that begin with what was typed; none for arguments that are free text."""
    match argument:
        case "processor":
            values = list(get_args(ProcessorName))
        case "run_id":
            values = await _recent_handles(call, "trun_")
        case "group_id":
            values = await _recent_handles(call, "tgrp_")
        case _:
            values = []
    fitting = [value for value in values if value.startswith(typed.strip())]
    return CompleteResult(
        completion=Completion(values=fitting[:MAX_VALUES], total=len(fitting), has_more=len(fitting) > MAX_VALUES)
    )


async def _recent_handles(call: Call, prefix: str) -> list[str]:
    """The caller's own newest handles; a courtesy, so nothing about it is worth an error."""
    try:
        entries = await call.app.creator.ledger.recent(call.owner, MAX_RECENT)
    except (MissingKey, LedgerUnavailable):
        return []
    return [entry.handle for entry in entries if entry.handle.startswith(prefix)]
