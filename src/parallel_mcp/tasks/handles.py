"""Handles: the ids that name runs and groups, told apart by their prefix and checked before any request."""

import re
from typing import Literal

from parallel_mcp.errors import PLATFORM_URL, InvalidArguments

HandleKind = Literal["run", "group", "findall", "monitor"]

_HANDLE = re.compile(r"[A-Za-z0-9_-]{1,128}")
_KINDS: dict[str, HandleKind] = {"trun_": "run", "tgrp_": "group", "findall_": "findall", "monitor_": "monitor"}
_EXAMPLES: dict[HandleKind, str] = {kind: f"{prefix}…" for prefix, kind in _KINDS.items()}

RUN_LINK = "https://platform.parallel.ai/view/task-run/{}"
GROUP_LINK = "https://platform.parallel.ai/view/task-run-group/{}"

RUNS = "parallel://runs"
RUN_STATUS = "parallel://runs/{run_id}"
RUN_REPORT = "parallel://runs/{run_id}/report.md"
RUN_RESULT = "parallel://runs/{run_id}/result.json"
GROUP_STATUS = "parallel://groups/{group_id}"
GROUP_TABLE = "parallel://groups/{group_id}/result.csv"


def handle_kind(handle: str, argument: str = "id") -> HandleKind:
    """What a handle names. One without a known prefix is taken for a run, since older runs have plain ids.

    Raises:
        InvalidArguments: Not the form of a handle.
    """
    if not _HANDLE.fullmatch(handle):
        raise InvalidArguments(
            f"`{argument}` is not a handle. A handle is 1 to 128 letters, digits, `_` or `-`, "
            "such as trun_… for a run or tgrp_… for a group, copied exactly from an earlier answer."
        )
    for prefix, kind in _KINDS.items():
        if handle.startswith(prefix):
            return kind
    return "run"


def run_handle(handle: str, argument: str = "id") -> str:
    """The handle, if it names a run.

    Raises:
        InvalidArguments: It names something else, or is no handle.
    """
    return checked_handle(handle, "run", argument)


def checked_handle(handle: str, wanted: HandleKind, argument: str = "id") -> str:
    """The handle, if it names what is wanted.

    Raises:
        InvalidArguments: It names something else, or is no handle.
    """
    kind = handle_kind(handle, argument)
    if kind != wanted:
        raise InvalidArguments(
            f"`{argument}` names a {kind}, and this tool takes the handle of a {wanted} ({_EXAMPLES[wanted]})."
        )
    return handle


def platform_link(handle: str) -> str:
    """The page where a person sees it; for FindAll runs and monitors, of which none is documented, the platform."""
    links: dict[HandleKind, str] = {"run": RUN_LINK, "group": GROUP_LINK}
    return links.get(handle_kind(handle), PLATFORM_URL).format(handle)
