"""Recording requests, and answering some of them wrongly: the outermost layer of the application."""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from parallel_mcp.simulator.sse import ConnectionDropped

MOST_RECORDED = 100_000


@dataclass(frozen=True)
class RecordedRequest:
    """A request as it arrived; header names are in lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Fault:
    """A wrong answer for requests that match, for tests.

    Attributes:
        method: The method it applies to, "*" for all.
        path_pattern: Regular expression for the whole path.
        times: How many requests get it; None for all.
        status, body, content_type, headers: The wrong answer.
        delay_s: Real seconds before it is given.
        after: Process the request for real first, so that what it creates exists, and only then answer wrongly.
            A stream or a waiting result is processed to its end.
        drop: Give no complete answer: the headers announce a body, and the connection is lost before it.
    """

    method: str
    path_pattern: str
    times: int | None = 1
    status: int = 500
    body: bytes | str = b""
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    delay_s: float = 0.0
    after: bool = False
    drop: bool = False

    def __post_init__(self) -> None:
        re.compile(self.path_pattern)

    def matches(self, request: RecordedRequest) -> bool:
        return self.method.upper() in ("*", request.method) and bool(re.fullmatch(self.path_pattern, request.path))


class Recorder:
    """Keeps the last 100,000 requests and the faults still to be given. Safe to use from several threads."""

    def __init__(self) -> None:
        self._requests: deque[RecordedRequest] = deque(maxlen=MOST_RECORDED)
        self._faults: list[tuple[Fault, int]] = []
        self._lock = threading.Lock()

    @property
    def requests(self) -> list[RecordedRequest]:
        with self._lock:
            return list(self._requests)

    def record(self, request: RecordedRequest) -> None:
        with self._lock:
            self._requests.append(request)

    def add_fault(self, fault: Fault) -> None:
        with self._lock:
            self._faults.append((fault, 0))

    def take_fault(self, request: RecordedRequest) -> Fault | None:
        """Return the first fault for this request, and count it as given."""
        with self._lock:
            for place, (fault, given) in enumerate(self._faults):
                if fault.matches(request) and (fault.times is None or given < fault.times):
                    self._faults[place] = (fault, given + 1)
                    return fault
        return None


class RecordingMiddleware:
    """Reads each request whole, records it, and answers it: with a fault if one matches."""

    def __init__(self, app: ASGIApp, recorder: Recorder) -> None:
        self._app = app
        self._recorder = recorder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = await _read(receive)
        if body is None:
            return
        request = _recorded(scope, body)
        self._recorder.record(request)
        fault = self._recorder.take_fault(request)
        if fault is None:
            await self._app(scope, _replayed(body, receive), send)
            return
        if fault.after:
            await self._app(scope, _replayed(body, receive), _ignored)
        await anyio.sleep(fault.delay_s)
        await _give(fault, send)


async def _read(receive: Receive) -> bytes | None:
    """Return the body, None if the caller hung up before its end."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def _recorded(scope: Scope, body: bytes) -> RecordedRequest:
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    query = scope.get("query_string", b"").decode("latin-1")
    return RecordedRequest(scope["method"], scope["path"], query, MappingProxyType(headers), body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Give the body once more; what comes after it is for the connection to say."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


async def _ignored(message: Message) -> None:
    """Swallow the real answer."""


async def _give(fault: Fault, send: Send) -> None:
    body = fault.body.encode() if isinstance(fault.body, str) else fault.body
    length = len(body) + 1 if fault.drop else len(body)
    headers = {"content-type": fault.content_type, "content-length": str(length), **fault.headers}
    raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": fault.status, "headers": raw})
    if fault.drop:
        raise ConnectionDropped
    await send({"type": "http.response.body", "body": body})
