"""What a connection carries in one answer."""

from parallel_mcp.errors import InvalidArguments
from parallel_mcp.render.budget import json_bytes
from parallel_mcp.tools.call import Call

# Clients built on the Python and Go SDKs refuse a larger event of a stream, and before this revision of the protocol
# every answer over HTTP is one.
MAX_EVENT_BYTES = 1_000_000
PLAIN_ANSWERS_SINCE = "2026-07-28"


def sendable(text: str, call: Call, handle: str) -> str:
    """The text, unless it is too large for this connection.

    Raises:
        InvalidArguments: It is.
    """
    is_event = call.ctx.headers is not None and (call.ctx.protocol_version or "") < PLAIN_ANSWERS_SINCE
    if is_event and (size := json_bytes(text)) > MAX_EVENT_BYTES:
        raise InvalidArguments(
            f"This resource has {size:,} bytes, more than your client takes in one answer over HTTP. "
            f'Read it in pages: get_result(id="{handle}")'
        )
    return text
