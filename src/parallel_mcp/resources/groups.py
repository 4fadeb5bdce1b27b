"""Groups as resources."""

from parallel_mcp.errors import InvalidArguments
from parallel_mcp.tasks.handles import handle_kind
from parallel_mcp.tools.call import Call
from parallel_mcp.tools.group_results import group_csv


async def group_table(call: Call, group_id: str) -> str:
    """The whole table as CSV, exact, with the rows as they stand.

    Raises:
        InvalidArguments: Not the id of a group, or a table of more than 16 MiB.
        UpstreamError: The group could not be read.
    """
    if handle_kind(group_id, "group_id") != "group":
        raise InvalidArguments("`group_id` is the handle of a group (tgrp_…).")
    return await group_csv(call.api, group_id)
