"""The proxy: accepts connections in a thread of its own and strikes each request with the fault scripted for it."""

import asyncio
import re
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import anyio
from anyio.abc import TaskStatus
from anyio.from_thread import start_blocking_portal

from tests.faults.kinds import Fault, pass_through
from tests.faults.wire import Ending, Exchange, ProxiedRequest, WatchedReader, read_request, reset


@dataclass(frozen=True, kw_only=True)
class ScriptedFault:
    """`fault` for the requests whose method and whole path (a regular expression, no query) match; None is any method.

    The first `skip` matches are left to the faults added later, the next `times` are struck (None: all of them).
    """

    method: str | None = None
    path: str = ".*"
    fault: Fault
    times: int | None = 1
    skip: int = 0


@dataclass
class _Armed:
    script: ScriptedFault
    matches: int = 0

    def strikes(self, request: ProxiedRequest) -> bool:
        script = self.script
        if script.method not in (None, request.method) or not re.fullmatch(script.path, request.path):
            return False
        self.matches += 1
        turn = self.matches - script.skip
        return turn >= 1 and (script.times is None or turn <= script.times)


class FaultyProxy:
    """An HTTP/1.1 proxy on a loopback port. Everything public may be used from any thread."""

    def __init__(self, upstream_url: str) -> None:
        upstream = urlsplit(upstream_url)
        self._upstream = (upstream.hostname or "127.0.0.1", upstream.port or 80)
        self._changed = threading.Condition()
        self._script: list[_Armed] = []
        self._requests: list[ProxiedRequest] = []
        self._being_answered: list[str] = []
        self._open_connections = 0
        self.url = ""

    def add(self, *faults: ScriptedFault) -> None:
        """Script faults, in order of precedence: the first that matches a request and has times left strikes it."""
        with self._changed:
            self._script += [_Armed(fault) for fault in faults]

    def clear(self) -> None:
        """Take back all faults that have not struck."""
        with self._changed:
            self._script.clear()

    @property
    def requests(self) -> list[ProxiedRequest]:
        """Every request that arrived whole so far, in order of arrival."""
        with self._changed:
            return self._requests.copy()

    @property
    def open_connections(self) -> int:
        with self._changed:
            return self._open_connections

    def being_answered(self, path: str) -> int:
        """How many requests are being answered now whose whole path matches: of streams, how many are open."""
        with self._changed:
            return sum(bool(re.fullmatch(path, answered)) for answered in self._being_answered)

    async def wait_for(self, condition: Callable[[], bool], timeout_s: float = 30) -> None:
        """Wait until `condition`, looked at whenever a request or connection comes, is forwarded or goes.

        Raises:
            TimeoutError: It did not come true in time.
        """

        def wait() -> bool:
            with self._changed:
                return self._changed.wait_for(condition, timeout_s)

        if not await anyio.to_thread.run_sync(wait):
            raise TimeoutError

    async def serve(self, *, task_status: TaskStatus[Callable[[], None]]) -> None:
        """Serve until the function handed to `task_status` is called."""
        async with anyio.create_task_group() as connections:

            def protocol() -> asyncio.StreamReaderProtocol:
                reader = WatchedReader()
                return asyncio.StreamReaderProtocol(
                    reader, lambda _, writer: connections.start_soon(self._serve_connection, reader, writer)
                )

            server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
            self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            task_status.started(connections.cancel_scope.cancel)
            try:
                await anyio.sleep_forever()
            finally:
                server.close()

    async def _serve_connection(self, reader: WatchedReader, writer: asyncio.StreamWriter) -> None:
        self._count_connection(+1)
        try:
            if await self._serve_requests(reader, writer) == "reset":
                reset(writer)
            else:
                writer.close()
            await writer.wait_closed()
        except (ConnectionError, asyncio.IncompleteReadError):
            writer.transport.abort()  # one side left in the middle of a message: tell the other
        except BaseException:
            writer.transport.abort()
            raise
        finally:
            self._count_connection(-1)

    async def _serve_requests(self, reader: WatchedReader, writer: asyncio.StreamWriter) -> Ending:
        ending: Ending = "keep"
        while ending == "keep":
            request = await read_request(reader)
            exchange = Exchange(request, reader, writer, self._upstream, self._record(request))
            fault = self._fault_for(request)
            ending = "close"
            try:
                with reader.while_connected():
                    ending = await fault(exchange)
            finally:
                self._note_answered(request)
        return ending

    def _fault_for(self, request: ProxiedRequest) -> Fault:
        with self._changed:
            for armed in self._script:
                if armed.strikes(request):
                    return armed.script.fault
        return pass_through

    def _record(self, request: ProxiedRequest) -> Callable[[], None]:
        """Add to `requests`; the function returned marks it as forwarded."""
        with self._changed:
            place = len(self._requests)
            self._requests.append(request)
            self._being_answered.append(request.path)
            self._changed.notify_all()

        def mark_forwarded() -> None:
            with self._changed:
                self._requests[place] = replace(request, forwarded=True)
                self._changed.notify_all()

        return mark_forwarded

    def _note_answered(self, request: ProxiedRequest) -> None:
        with self._changed:
            self._being_answered.remove(request.path)
            self._changed.notify_all()

    def _count_connection(self, change: int) -> None:
        with self._changed:
            self._open_connections += change
            self._changed.notify_all()


@contextmanager
def faulty(upstream_url: str) -> Generator[FaultyProxy]:
    """A proxy in front of `upstream_url`, passing everything through until faults are added.

    Leaving the block closes every connection and joins the thread; an error inside the proxy, such as a fault that
    cannot do what it was asked, is raised there.
    """
    proxy = FaultyProxy(upstream_url)
    with start_blocking_portal("asyncio") as portal:
        serving, stop = portal.start_task(proxy.serve)
        try:
            yield proxy
        finally:
            portal.call(stop)
            serving.result()


@contextmanager
def refused_url() -> Generator[str]:
    """A URL that refuses connections: its port is taken, and nothing listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"
