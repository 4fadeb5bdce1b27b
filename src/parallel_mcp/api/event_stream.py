"""Server-sent events of the API -> typed events. Junk between good events is skipped, never fatal."""

import logging
import time
from codecs import getincrementaldecoder
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, TypeVar, cast

import anyio.lowlevel
import httpx
from httpx_sse import EventSource, ServerSentEvent
from pydantic import BaseModel, ValidationError

from parallel_mcp.api.failures import connection_failures
from parallel_mcp.api.foreign_json import leading_members, parsed
from parallel_mcp.errors import UpstreamUnreadable

KEPT_EVENT_BYTES = 256 << 10
MAX_EVENT_BYTES = 32 << 20  # the last event of a run carries its whole output
TURN_S = 0.005

_CUT = "parallel_mcp.cut"
_RUN_STATE = "task_run.state"

_Event = TypeVar("_Event", bound=BaseModel)

logger = logging.getLogger(__name__)


async def read_events(
    response: httpx.Response, model_of: Callable[[str], type[_Event]], *, kept_bytes: int = KEPT_EVENT_BYTES
) -> AsyncGenerator[_Event]:
    """The events of an open stream, until it ends. However fast they come, others get their turn in between.

    `model_of` gives the model of a `type`, also of an unknown one. At most `kept_bytes` of an event are kept in memory.
    Of a longer one, up to 32 MiB, only the state of a run is given, read from the beginning and without what did not
    fit (its output); or an `error` if it may have been one.

    Raises:
        UpstreamUnavailable: The connection broke.
        UpstreamUnreadable: Not an event stream, or an event over 32 MiB.
    """
    if "text/event-stream" not in response.headers.get("content-type", ""):
        raise UpstreamUnreadable("The Parallel API answered with something else than an event stream")
    turn = _Turn()
    source = EventSource(_PlainText(response, kept_bytes, turn))
    async with aclosing(source.aiter_sse()) as messages:
        while True:
            with connection_failures("event stream"):
                message = await anext(messages, None)
            if message is None:
                return
            event = _event_of(message, model_of) if message.data else None
            if event is not None:
                yield event
            await turn.pass_on()


def _event_of(message: ServerSentEvent, model_of: Callable[[str], type[_Event]]) -> _Event | None:
    if message.event == _CUT:
        return _cut_event(message.data, model_of)
    try:
        content = parsed(message.data)
        kind = cast("dict[str, Any]", content).get("type") if isinstance(content, dict) else None
        return model_of(kind if isinstance(kind, str) else "").model_validate(content)
    except ValueError as error:  # pydantic's ValidationError is a ValueError
        reason = f"{error.error_count()} fields do not fit" if isinstance(error, ValidationError) else "not JSON"
        logger.info("Skipped an event of %d characters: %s", len(message.data), reason)
        return None


def _cut_event(beginning: str, model_of: Callable[[str], type[_Event]]) -> _Event | None:
    """What is to be known of an event too long to keep: nothing but the state of a run matters enough."""
    members = leading_members(beginning)
    if members.get("type", _RUN_STATE) != _RUN_STATE:
        logger.info("Skipped an event too long to keep")
        return None
    try:
        return model_of(_RUN_STATE).model_validate(members)
    except ValidationError:
        error = {"message": "An event was too long to be read"}
        return model_of("error").model_validate({"type": "error", "error": error})


class _Turn:
    """Time on the event loop: a reader who always has something to do must still let others run."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    async def pass_on(self) -> None:
        """Let others run, if they have been kept waiting."""
        if time.monotonic() - self._since > TURN_S:
            await anyio.lowlevel.checkpoint()
            self._since = time.monotonic()


class _PlainText(httpx.Response):
    """The text of a stream in its plainest form: no byte-order mark, line feeds only, and events that end.

    A response because that is what `EventSource` takes, which asks it for nothing but its text. To decode here takes
    less memory than the layers of generators in which httpx would, and a server holds thousands of streams.
    """

    def __init__(self, response: httpx.Response, kept_bytes: int, turn: _Turn) -> None:
        super().__init__(200, headers={"content-type": "text/event-stream"})
        self._response = response
        self._kept_bytes = kept_bytes
        self._turn = turn

    async def aiter_text(self, chunk_size: int | None = None) -> AsyncIterator[str]:
        decoder = getincrementaldecoder("utf-8-sig")("replace")
        line_ends, bound = _LineEnds(), _EventBound(self._kept_bytes)
        async for chunk in self._response.aiter_raw():
            text = decoder.decode(bound.take(line_ends.take(chunk)))
            if text:
                yield text
            await self._turn.pass_on()


class _LineEnds:
    """Makes every end of a line a line feed: CR LF, also when cut in two, and CR alone."""

    def __init__(self) -> None:
        self._after_return = False

    def take(self, chunk: bytes) -> bytes:
        if self._after_return and chunk:
            chunk = chunk.removeprefix(b"\n")
            self._after_return = False
        if b"\r" not in chunk:
            return chunk
        self._after_return = chunk.endswith(b"\r")
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


class _EventBound:
    """Cuts an event that is longer than what is kept: there it ends, named `_CUT`; the rest is dropped as it comes."""

    def __init__(self, kept_bytes: int) -> None:
        self._kept_bytes = kept_bytes
        self._size = 0
        self._at_line_start = True

    def take(self, chunk: bytes) -> bytes:
        kept: list[bytes] = []
        start = 0
        while start < len(chunk):
            if self._at_line_start and chunk[start] == ord("\n"):
                end, is_last = start + 1, True
            else:
                blank = chunk.find(b"\n\n", start)
                end, is_last = (blank + 2, True) if blank >= 0 else (len(chunk), False)
            kept += self._kept_of(chunk[start:end])
            self._at_line_start = chunk[end - 1] == ord("\n")
            if is_last:
                self._size = 0
            start = end
        return b"".join(kept)

    def _kept_of(self, piece: bytes) -> list[bytes]:
        room = self._kept_bytes - self._size
        self._size += len(piece)
        if self._size > MAX_EVENT_BYTES:
            raise UpstreamUnreadable(f"An event of the Parallel API is larger than {MAX_EVENT_BYTES >> 20} MiB")
        if len(piece) <= room:
            return [piece]
        if room < 0:
            return []
        within_line = not (piece[:room].endswith(b"\n") if room else self._at_line_start)
        return [piece[:room], b"\n" if within_line else b"", f"event: {_CUT}\n\n".encode()]
