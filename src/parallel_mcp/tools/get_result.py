"""The result of whatever a handle names."""

from __future__ import annotations

from mcp.types import CallToolResult

from parallel_mcp.errors import InvalidArguments
from parallel_mcp.tasks.handles import handle_kind
from parallel_mcp.tools.call import Call
from parallel_mcp.tools.group_results import group_result, group_result_within
from parallel_mcp.tools.reply import reply
from parallel_mcp.tools.result_pages import GetResultArguments
from parallel_mcp.tools.results import result_of, result_within
from parallel_mcp.tools.waiting import allowed_wait_s


async def get_result(request: GetResultArguments, call: Call) -> CallToolResult:
    """Get the result of a run with numbered sources, or the table of a group. Free.

    Long ones come in pages. Not ready yet: you get the next call. Cite sources by number and address; check the fields
    under "Check these" first.
    """
    wait_s = allowed_wait_s(request.wait_s, call)
    match handle_kind(request.id):
        case "run":
            answer = await (result_within(wait_s, request, call) if wait_s else result_of(request, call))
        case "group":
            answer = await (group_result_within(wait_s, request, call) if wait_s else group_result(request, call))
        case "findall":
            from parallel_mcp.tools.findall_results import findall_result, findall_result_within

            answer = await (findall_result_within(wait_s, request, call) if wait_s else findall_result(request, call))
        case "monitor":
            raise InvalidArguments("`id` names a monitor, which has no result: get_monitor_events gives what it found.")
    return reply(answer.text, answer.structured)
