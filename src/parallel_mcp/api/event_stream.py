"""Server-sent events of the API -> typed events. Junk between good events is skipped, never fatal."""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, TypeVar, cast

import httpx
from httpx_sse import EventSource
from pydantic import BaseModel, ValidationError

from parallel_mcp.api.failures import connection_failures
from parallel_mcp.api.foreign_json import parsed
from parallel_mcp.errors import UpstreamUnreadable

MAX_EVENT_BYTES = 32 << 20  # the last event of a run carries its whole output
_BLANK_LINES = (b"\n\n", b"\r\r", b"\r\n\r\n")
_BOM = b"\xef\xbb\xbf"

_Event = TypeVar("_Event", bound=BaseModel)

logger = logging.getLogger(__name__)


async def read_events(response: httpx.Response, model_of: Callable[[str], type[_Event]]) -> AsyncGenerator[_Event]:
    """The events of an open stream, until it ends. `model_of` gives the model of a `type`, also of an unknown one.

    Raises:
        UpstreamUnavailable: The connection broke.
        UpstreamUnreadable: Not an event stream, or an event over 32 MiB.
    """
    if "text/event-stream" not in response.headers.get("content-type", ""):
        raise UpstreamUnreadable("The Parallel API answered with something else than an event stream")
    source = EventSource(httpx.Response(200, headers=response.headers, stream=_GuardedBytes(response)))
    async with aclosing(source.aiter_sse()) as messages:
        while True:
            with connection_failures("event stream"):
                message = await anext(messages, None)
            if message is None:
                return
            event = _parse(message.data, model_of) if message.data else None
            if event is not None:
                yield event


def _parse(data: str, model_of: Callable[[str], type[_Event]]) -> _Event | None:
    try:
        content = parsed(data)
        kind = cast("dict[str, Any]", content).get("type") if isinstance(content, dict) else None
        return model_of(kind if isinstance(kind, str) else "").model_validate(content)
    except ValueError as error:  # pydantic's ValidationError is a ValueError
        reason = f"{error.error_count()} fields do not fit" if isinstance(error, ValidationError) else "not JSON"
        logger.warning("Skipped an event of %d characters: %s", len(data), reason)
        return None


class _GuardedBytes(httpx.AsyncByteStream):
    """The bytes of a stream without a byte-order mark, and an end to events that have none."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        event_bytes = 0
        tail = b""
        at_start = True
        async for chunk in self._response.aiter_raw():
            if at_start:
                chunk = chunk.removeprefix(_BOM)
                at_start = False
            seen = tail + chunk
            last_end = max(seen.rfind(blank) for blank in _BLANK_LINES)
            event_bytes = len(seen) - last_end if last_end >= 0 else event_bytes + len(chunk)
            if event_bytes > MAX_EVENT_BYTES:
                raise UpstreamUnreadable(f"An event of the Parallel API is larger than {MAX_EVENT_BYTES >> 20} MiB")
            tail = seen[-3:]
            yield chunk
