"""What a connection carries in one answer."""

import anyio

from parallel_mcp.errors import InvalidArguments
from parallel_mcp.render.budget import json_bytes
from parallel_mcp.tools.call import Call

# Clients built on the Python and Go SDKs refuse a larger event of a stream. Before this revision of the protocol every
# answer over HTTP is one; since then, one that has not come within 15 s.
MAX_EVENT_BYTES = 1_000_000
PLAIN_ANSWERS_SINCE = "2026-07-28"
PLAIN_ANSWERS_WITHIN_S = 13.0  # with room for what is still to be done


def check_sendable(text: str, call: Call, handle: str, *, asked_at: float) -> None:
    """Make sure that this connection carries the text as an answer to what was asked at that time.

    Raises:
        InvalidArguments: It does not.
    """
    if _is_event(call, asked_at) and (size := json_bytes(text)) > MAX_EVENT_BYTES:
        raise InvalidArguments(
            f"This resource has {size:,} bytes, more than your client takes in one event of a stream over HTTP. "
            f'Read it in pages: get_result(id="{handle}")'
        )


def _is_event(call: Call, asked_at: float) -> bool:
    if call.ctx.headers is None:
        return False
    is_late = anyio.current_time() - asked_at > PLAIN_ANSWERS_WITHIN_S
    return is_late or (call.ctx.protocol_version or "") < PLAIN_ANSWERS_SINCE
